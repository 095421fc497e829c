// How many edges of one type lead to each dataset.
MATCH (d:MatchGraphDataset)
RETURN d.id AS dataset, CASE $type WHEN 'PERFORMS' THEN COUNT { (d)<-[:PERFORMS]-() } ELSE COUNT { (d)<-[:SIMILAR]-() } END AS edges
ORDER BY dataset
