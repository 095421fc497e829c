// The statistics of a dataset by what they are known by.
MATCH (:MatchGraphDataset {id: $id})-[:DESCRIBED_BY]->(s:MatchGraphStatistics)
RETURN s.key AS key, s.extractor AS extractor, s.resize AS resize
