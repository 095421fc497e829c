// Edges of one quality band, as paths to look at in Neo4j Browser
// The bands of results go by rank within their dataset: best is its best result, and good, fair and poor are the thirds of the ranking below
// it. Those of similarities are the quartiles among all of them.
// :param band string best -- best, good, fair or poor
// :param type string PERFORMS -- PERFORMS or SIMILAR
// :param metric metric clip_fid -- metric of the values
// :param limit integer 100 -- maximum number of edges
MATCH (graph:MatchGraph)
WITH CASE WHEN $metric IN graph.larger_is_better THEN -1 ELSE 1 END AS sign
MATCH (:MatchGraphModel|MatchGraphDataset)-[e:PERFORMS|SIMILAR]->(d:MatchGraphDataset)
WHERE type(e) = $type AND e[$metric] IS NOT NULL
WITH CASE $type WHEN 'PERFORMS' THEN d END AS within, e, sign * e[$metric] AS loss
ORDER BY loss
WITH within, collect(e) AS edges, collect(loss) AS losses, percentileCont(loss, 0.25) AS lower, percentileCont(loss, 0.5) AS median,
     percentileCont(loss, 0.75) AS upper
UNWIND range(0, size(edges) - 1) AS i
WITH within, lower, median, upper, size(edges) AS measured, losses[i] AS loss, min(i) AS first, collect(edges[i]) AS tied
UNWIND tied AS e
WITH e, loss,
     CASE WHEN within IS NULL THEN
       CASE WHEN loss <= lower THEN 'best' WHEN loss <= median THEN 'good' WHEN loss <= upper THEN 'fair' ELSE 'poor' END
     ELSE
       CASE WHEN first = 0 THEN 'best' WHEN 3 * first < measured THEN 'good' WHEN 3 * first < 2 * measured THEN 'fair' ELSE 'poor' END
     END AS band
WHERE band = $band
MATCH path = (a)-[e]->(b)
RETURN path
ORDER BY loss, a.id, b.id
LIMIT $limit
