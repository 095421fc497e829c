// Where the files of models and datasets were when they were ingested.
MATCH (n:MatchGraphModel|MatchGraphDataset)
WHERE n.source IS NOT NULL
RETURN CASE WHEN n:MatchGraphModel THEN 'model' ELSE 'dataset' END AS kind, n.id AS id, n.source AS source
ORDER BY kind, id
