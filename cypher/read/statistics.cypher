// Feature statistics by one extractor; mean and covariance (its lower triangle) are little-endian 64-bit floats.
// Parameters: extractor; datasets, a list of ids, null for all.
MATCH (d:MatchGraphDataset)-[:DESCRIBED_BY]->(s:MatchGraphStatistics {extractor: $extractor})
WHERE $datasets IS NULL OR d.id IN $datasets
RETURN d.id AS dataset, s.extractor AS extractor, s.resize AS resize, s.n AS n, s.searched AS searched, s.mean AS mean,
       s.covariance AS covariance
