// What an image of a variant costs has a unit.
MATCH (v:MatchGraphVariant)
WHERE v.tflop IS NOT NULL
SET v.cost = v.tflop, v.unit = 'TFLOP'
REMOVE v.tflop
