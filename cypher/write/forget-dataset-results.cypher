// Remove what was measured on datasets that are replaced by others: results and runs. A worker that is still at such a
// run finds it gone and writes nothing.
UNWIND $ids AS id
MATCH (d:MatchGraphDataset {id: id})
OPTIONAL MATCH (d)<-[e:PERFORMS]-(:MatchGraphModel)
DELETE e
WITH DISTINCT d
OPTIONAL MATCH (d)<-[:ON]-(run:MatchGraphRun)
DETACH DELETE run
