// Dataset-dataset edges by one metric, with the extractor that each value was measured with.
MATCH (d:Dataset)-[e:SIMILAR]->(o:Dataset)
WHERE e[$metric] IS NOT NULL
RETURN d.id AS dataset, o.id AS other, e[$metric] AS value, e[$metric + '__extractor'] AS extractor
