// Metrics by which prompts are scored; a property's name without __ is one.
MATCH ()-[e:SCORED]->()
UNWIND keys(e) AS metric
WITH metric
WHERE metric <> 'key' AND NOT metric CONTAINS '__'
RETURN metric, count(*) AS scores
ORDER BY metric
