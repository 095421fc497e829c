// Feature statistics of one dataset by the extractor of its embedding; mean and covariance as in statistics.cypher.
MATCH (d:MatchGraphDataset {id: $dataset})-[:DESCRIBED_BY]->(s:MatchGraphStatistics)
WHERE s.extractor = d.extractor
RETURN d.id AS dataset, s.extractor AS extractor, s.resize AS resize, s.n AS n, s.searched AS searched, s.mean AS mean,
       s.covariance AS covariance
ORDER BY s.resize
LIMIT 1
