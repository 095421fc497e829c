// How many nodes of ours there are of each kind.
MATCH (n:MatchGraphDataset)
RETURN 'Dataset' AS label, count(n) AS count
UNION ALL
MATCH (n:MatchGraphModel)
RETURN 'Model' AS label, count(n) AS count
UNION ALL
MATCH (n:MatchGraphPrompt)
RETURN 'Prompt' AS label, count(n) AS count
UNION ALL
MATCH (n:MatchGraphRun)
RETURN 'Run' AS label, count(n) AS count
UNION ALL
MATCH (n:MatchGraphStatistics)
RETURN 'Statistics' AS label, count(n) AS count
UNION ALL
MATCH (n:MatchGraphVariant)
RETURN 'Variant' AS label, count(n) AS count
