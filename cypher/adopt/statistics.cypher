// Give our label to the feature statistics of an earlier graph: those that describe a dataset of ours.
MATCH (:MatchGraphDataset)-[:DESCRIBED_BY]->(s:Statistics)
WHERE s.key IS :: STRING NOT NULL AND s.extractor IS :: STRING NOT NULL AND s.mean IS NOT NULL AND s.covariance IS NOT NULL
SET s:MatchGraphStatistics
