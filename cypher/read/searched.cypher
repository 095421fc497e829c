// Datasets that were compared with the nearest ones alone, by a metric of one extractor.
MATCH (d:MatchGraphDataset)-[:DESCRIBED_BY]->(s:MatchGraphStatistics {extractor: $extractor})
WHERE $metric IN s.searched
RETURN d.id AS dataset
