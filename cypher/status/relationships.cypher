// How many relationships of each type there are between nodes of ours, without those that only Neo4j Browser shows.
MATCH (:MatchGraphModel|MatchGraphDataset|MatchGraphRun|MatchGraphStatistics|MatchGraphPrompt|MatchGraphVariant)-[r]->(:MatchGraphModel|MatchGraphDataset|MatchGraphRun|MatchGraphStatistics|MatchGraphPrompt|MatchGraphVariant)
WHERE NOT type(r) IN ['BEST', 'GOOD', 'FAIR', 'POOR', 'NEAREST', 'NEAR']
RETURN type(r) AS type, count(*) AS count
ORDER BY type
