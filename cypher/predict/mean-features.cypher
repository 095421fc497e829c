// The mean features of datasets by each extractor, as little-endian 64-bit floats.
MATCH (d:MatchGraphDataset)-[:DESCRIBED_BY]->(s:MatchGraphStatistics)
RETURN s.extractor AS extractor, d.id AS dataset, s.resize AS resize, s.mean AS mean
ORDER BY extractor, dataset, resize
