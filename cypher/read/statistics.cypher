// Feature statistics by one extractor; mean and covariance (its lower triangle) are little-endian 64-bit floats.
MATCH (d:MatchGraphDataset)-[:DESCRIBED_BY]->(s:MatchGraphStatistics {extractor: $extractor})
RETURN d.id AS dataset, s.extractor AS extractor, s.resize AS resize, s.n AS n, s.dim AS dim, s.mean AS mean,
       s.covariance AS covariance
