// Give our label to the models of an earlier graph.
// A model is ours that has no other label, an `id` and a `name` that are text as every ingested model has, and no relationship of a
// type that we do not write; or that has one of our edges: PERFORMS, SIMILAR and DISTILLED_FROM bear `key`, the JSON list of two ids.
MATCH (m:Model)
WHERE labels(m) = ['Model'] AND m.id IS :: STRING NOT NULL
  AND ((m.name IS :: STRING NOT NULL AND NOT EXISTS { (m)-[r]-() WHERE NOT type(r) IN ['PERFORMS', 'DISTILLED_FROM', 'OF'] })
       OR EXISTS { (m)-[e:PERFORMS|DISTILLED_FROM]-(:Model|Dataset) WHERE e.key IS :: STRING NOT NULL AND e.key STARTS WITH '["' })
SET m:MatchGraphModel
