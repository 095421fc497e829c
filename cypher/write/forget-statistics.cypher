// Remove the feature statistics of datasets whose images are others now.
UNWIND $ids AS id
MATCH (:MatchGraphDataset {id: id})-[:DESCRIBED_BY]->(s:MatchGraphStatistics)
DETACH DELETE s
