// Remove nodes of ours with their edges, at most $limit of them, and say how many; the record of the schema stays.
// Other applications' nodes stay as they are.
MATCH (n:MatchGraphModel|MatchGraphDataset|MatchGraphRun|MatchGraphStatistics|MatchGraphPrompt|MatchGraphVariant)
WITH n LIMIT $limit
DETACH DELETE n
RETURN count(*) AS deleted
