// How many nodes and relationships other applications have in this database.
CALL () {
  MATCH (n)
  RETURN count(n) AS all_nodes
}
CALL () {
  MATCH (n:MatchGraphModel|MatchGraphDataset|MatchGraphRun|MatchGraphStatistics|MatchGraphPrompt|MatchGraphVariant|MatchGraph)
  RETURN count(n) AS own_nodes
}
CALL () {
  MATCH ()-[r]->()
  RETURN count(r) AS all_relationships
}
CALL () {
  MATCH (:MatchGraphModel|MatchGraphDataset|MatchGraphRun|MatchGraphStatistics|MatchGraphPrompt|MatchGraphVariant)-[r]->(:MatchGraphModel|MatchGraphDataset|MatchGraphRun|MatchGraphStatistics|MatchGraphPrompt|MatchGraphVariant)
  RETURN count(r) AS own_relationships
}
RETURN all_nodes - own_nodes AS nodes, all_relationships - own_relationships AS relationships
