// Give our label to the variants of an earlier graph: those of a model of ours, with steps and cost.
MATCH (v:Variant)-[:OF]->(:MatchGraphModel)
WHERE v.id IS :: STRING NOT NULL AND v.steps IS :: INTEGER NOT NULL AND v.tflop IS :: FLOAT NOT NULL
SET v:MatchGraphVariant
