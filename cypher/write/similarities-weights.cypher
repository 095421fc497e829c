// Bring the weight of similarities up to date.
// It is exp(-$sharpness d / median of d), d the distance or how far a score stays behind the best: graphdb/weights.py, similarity_weight.
// All similarities count for the median; written are those that lead to one of the ids $datasets, or all of them where that is null.
MATCH ()-[e:SIMILAR]->()
WHERE e.value IS NOT NULL
WITH e.metric AS metric, min(e.value) AS least, max(e.value) AS greatest
MATCH (m:Metric {name: metric})
WITH metric, CASE WHEN m.larger_is_better THEN greatest WHEN least < 0 THEN least ELSE 0.0 END AS origin
MATCH ()-[e:SIMILAR {metric: metric}]->()
WHERE e.value IS NOT NULL
WITH metric, origin, avg(abs(e.value - origin)) AS mean, percentileCont(abs(e.value - origin), 0.5) AS median
WITH collect({metric: metric, origin: origin, scale: CASE WHEN median > 0 THEN median ELSE mean END}) AS kinds
MATCH (d:Dataset)
WHERE $datasets IS NULL OR d.id IN $datasets
WITH d, kinds
MATCH (d)<-[e:SIMILAR]-()
WHERE e.value IS NOT NULL
WITH e, head([kind IN kinds WHERE kind.metric = e.metric]) AS kind
WITH e, kind.scale AS scale, abs(e.value - kind.origin) AS d
WITH e,
     CASE WHEN scale = 0 THEN 1.0
          WHEN exp(-$sharpness * d / scale) < $least THEN $least
          ELSE exp(-$sharpness * d / scale) END AS weight
WHERE e.weight IS NULL OR e.weight <> weight
SET e.weight = weight
