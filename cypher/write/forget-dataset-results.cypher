// Remove what was measured on datasets that are replaced by others: results, with their copies for Neo4j Browser, and runs. A worker
// that is still at such a run finds it gone and writes nothing.
UNWIND $ids AS id
MATCH (d:MatchGraphDataset {id: id})
OPTIONAL MATCH (d)<-[e:PERFORMS|BEST|GOOD|FAIR|POOR]-(:MatchGraphModel)
WHERE e:PERFORMS OR e.matchgraph = true
DELETE e
WITH DISTINCT d
OPTIONAL MATCH (d)<-[:ON]-(run:MatchGraphRun)
DETACH DELETE run
