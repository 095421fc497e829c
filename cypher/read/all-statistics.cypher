// Feature statistics of each dataset by each extractor; mean and covariance as in statistics.cypher.
MATCH (d:MatchGraphDataset)-[:DESCRIBED_BY]->(s:MatchGraphStatistics)
RETURN d.id AS dataset, s.extractor AS extractor, s.resize AS resize, s.n AS n, s.searched AS searched, s.mean AS mean,
       s.covariance AS covariance
ORDER BY dataset, s.extractor, s.resize
