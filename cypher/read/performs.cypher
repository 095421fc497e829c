// Model-dataset edges by one metric, after fine-tuning (value) and before it (initial), with the extractor that each was measured with.
MATCH (m:Model)-[e:PERFORMS]->(d:Dataset)
WHERE e[$metric] IS NOT NULL OR e['initial_' + $metric] IS NOT NULL
RETURN m.id AS model, d.id AS dataset, e[$metric] AS value, e['initial_' + $metric] AS initial,
       e[$metric + '__extractor'] AS extractor, e['initial_' + $metric + '__extractor'] AS initial_extractor
