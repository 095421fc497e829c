// Contents of the graph
// Nodes by label, edges by type, and values by metric; `share` is of all pairs that could have such a value.
CALL () {
  MATCH (n:MatchGraphModel|MatchGraphDataset|MatchGraphRun|MatchGraphStatistics|MatchGraphPrompt|MatchGraphVariant)
  UNWIND [label IN labels(n) WHERE label STARTS WITH 'MatchGraph'] AS label
  RETURN 1 AS place, 'nodes' AS kind, substring(label, size('MatchGraph')) AS name, count(*) AS count, null AS share
  UNION ALL
  MATCH (:MatchGraphModel|MatchGraphDataset|MatchGraphRun|MatchGraphStatistics|MatchGraphPrompt|MatchGraphVariant)-[e]->(:MatchGraphModel|MatchGraphDataset|MatchGraphRun|MatchGraphStatistics|MatchGraphPrompt|MatchGraphVariant)
  WHERE NOT type(e) IN ['BEST', 'GOOD', 'FAIR', 'POOR', 'NEAREST', 'NEAR']
  RETURN 2 AS place, 'edges' AS kind, type(e) AS name, count(*) AS count, null AS share
  UNION ALL
  MATCH (graph:MatchGraph)
  UNWIND graph.metrics AS name
  MATCH (:MatchGraphModel)-[e:PERFORMS]->(:MatchGraphDataset)
  WHERE e[name] IS NOT NULL
  WITH name, count(*) AS count
  RETURN 3 AS place, 'results' AS kind, name, count,
         toFloat(count) / (COUNT { (:MatchGraphModel) } * COUNT { (:MatchGraphDataset) }) AS share
  UNION ALL
  MATCH (graph:MatchGraph)
  UNWIND graph.metrics AS name
  MATCH (:MatchGraphDataset)-[e:SIMILAR]->(:MatchGraphDataset)
  WHERE e[name] IS NOT NULL
  WITH name, count(*) AS count
  RETURN 4 AS place, 'similarities' AS kind, name, count,
         2.0 * count / (COUNT { (:MatchGraphDataset) } * (COUNT { (:MatchGraphDataset) } - 1)) AS share
}
RETURN kind, name, count, share
ORDER BY place, name
