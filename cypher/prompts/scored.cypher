// Prompts that a variant is scored on by one metric and scorer, with enough images.
MATCH (:MatchGraphVariant {id: $variant})-[e:SCORED]->(p:MatchGraphPrompt)
WHERE e[$metric] IS NOT NULL AND e[$metric + '__scorer'] = $scorer AND e[$metric + '__samples'] >= $samples
RETURN p.id AS id
