// Save feature statistics of a dataset; those of the same extractor and resize mode are replaced.
UNWIND $rows AS row
MATCH (d:MatchGraphDataset {id: row.dataset})
MERGE (s:MatchGraphStatistics {key: row.key})
SET s = row.properties, s:Statistics
MERGE (d)-[:DESCRIBED_BY]->(s)
