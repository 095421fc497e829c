// Metrics by which prompts are scored; a property's name without __ is one.
MATCH (:MatchGraphVariant)-[e:SCORED]->(:MatchGraphPrompt)
UNWIND keys(e) AS metric
WITH metric
WHERE NOT metric CONTAINS '__'
RETURN metric, count(*) AS scores
ORDER BY metric
