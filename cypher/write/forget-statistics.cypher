// Remove the feature statistics of datasets whose images are others now.
UNWIND $ids AS id
MATCH (:Dataset {id: id})-[:DESCRIBED_BY]->(s:Statistics)
DETACH DELETE s
