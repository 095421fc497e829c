// How many relationships of each type there are between nodes of ours.
MATCH (:MatchGraphModel|MatchGraphDataset|MatchGraphRun|MatchGraphStatistics|MatchGraphPrompt|MatchGraphVariant)-[r]->(:MatchGraphModel|MatchGraphDataset|MatchGraphRun|MatchGraphStatistics|MatchGraphPrompt|MatchGraphVariant)
RETURN type(r) AS type, count(*) AS count
ORDER BY type
