// Remove what was measured with models that are replaced by others: results, runs, variants with their scores, and
// what they were distilled from. A worker that is still at such a run finds it gone and writes nothing.
UNWIND $ids AS id
MATCH (m:Model {id: id})
OPTIONAL MATCH (m)-[e:PERFORMS|DISTILLED_FROM]-()
DELETE e
WITH DISTINCT m
OPTIONAL MATCH (m)<-[:OF]-(n)
WHERE n:Run OR n:Variant
DETACH DELETE n
