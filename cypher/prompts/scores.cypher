// All scores by one metric.
MATCH (v:MatchGraphVariant)-[e:SCORED]->(p:MatchGraphPrompt)
WHERE e[$metric] IS NOT NULL
RETURN v.id AS variant, p.id AS prompt, e[$metric] AS value, e[$metric + '__samples'] AS samples,
       e[$metric + '__std'] AS std, e[$metric + '__scorer'] AS scorer
