// Remove what was measured with models that are replaced by others: results, with their copies for Neo4j Browser, runs, variants with
// their scores, and what they were distilled from. A worker that is still at such a run finds it gone and writes nothing.
UNWIND $ids AS id
MATCH (m:MatchGraphModel {id: id})
OPTIONAL MATCH (m)-[e:PERFORMS|DISTILLED_FROM|BEST|GOOD|FAIR|POOR]-(:MatchGraphModel|MatchGraphDataset)
WHERE e:PERFORMS|DISTILLED_FROM OR e.matchgraph = true
DELETE e
WITH DISTINCT m
OPTIONAL MATCH (m)<-[:OF]-(n:MatchGraphRun|MatchGraphVariant)
DETACH DELETE n
