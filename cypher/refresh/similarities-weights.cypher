// Set the weight of similarities that lead to the datasets $datasets, after similarities-default.cypher.
// It is exp(-$sharpness d / median of d), d the distance or how far a score stays behind the best: graphdb/weights.py, similarity_weight.
// All similarities count for the median.
MATCH (graph:MatchGraph)
MATCH (:MatchGraphDataset)-[e:SIMILAR]->(:MatchGraphDataset)
WHERE e.value IS NOT NULL
WITH graph, e.metric AS metric, min(e.value) AS least, max(e.value) AS greatest
WITH metric, CASE WHEN metric IN graph.larger_is_better THEN greatest WHEN least < 0 THEN least ELSE 0.0 END AS origin
MATCH (:MatchGraphDataset)-[e:SIMILAR {metric: metric}]->(:MatchGraphDataset)
WHERE e.value IS NOT NULL
WITH metric, origin, avg(abs(e.value - origin)) AS mean, percentileCont(abs(e.value - origin), 0.5) AS median
WITH collect({metric: metric, origin: origin, scale: CASE WHEN median > 0 THEN median ELSE mean END}) AS kinds
MATCH (d:MatchGraphDataset)
WHERE d.id IN $datasets
MATCH (d)<-[e:SIMILAR]-(:MatchGraphDataset)
WHERE e.value IS NOT NULL
WITH e, head([kind IN kinds WHERE kind.metric = e.metric]) AS kind
WITH e, kind.scale AS scale, abs(e.value - kind.origin) AS d
SET e.weight = CASE WHEN scale = 0 THEN 1.0
                    WHEN exp(-$sharpness * d / scale) < $least THEN $least
                    ELSE exp(-$sharpness * d / scale) END
