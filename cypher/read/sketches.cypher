// What is kept in brief of feature statistics by one extractor, see graphdb/sketches.py; no covariance is read.
MATCH (d:MatchGraphDataset)-[:DESCRIBED_BY]->(s:MatchGraphStatistics {extractor: $extractor})
RETURN d.id AS dataset, s.mean AS mean, s.trace AS trace, s.sketch AS sketch, s.directions AS directions, s.searched AS searched
