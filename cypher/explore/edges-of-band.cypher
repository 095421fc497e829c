// Edges of one quality band, as paths to look at in Neo4j Browser
// The bands are best, good, fair and poor: the quartiles of the value among all edges of the type. In Browser the edges show their band
// as it was at the last `matchgraph graph refresh`.
// :param band string best -- best, good, fair or poor
// :param type string PERFORMS -- PERFORMS or SIMILAR
// :param metric metric clip_fid -- metric of the values
// :param limit integer 100 -- most edges to return
MATCH (graph:MatchGraph)
WITH CASE WHEN $metric IN graph.larger_is_better THEN -1 ELSE 1 END AS sign
MATCH (:MatchGraphModel|MatchGraphDataset)-[e:PERFORMS|SIMILAR]->(:MatchGraphDataset)
WHERE type(e) = $type AND e[$metric] IS NOT NULL
WITH sign, collect(e) AS edges, percentileCont(sign * e[$metric], 0.25) AS lower, percentileCont(sign * e[$metric], 0.5) AS median,
     percentileCont(sign * e[$metric], 0.75) AS upper
UNWIND edges AS e
WITH e, sign * e[$metric] AS loss, lower, median, upper
WHERE $band = CASE WHEN loss <= lower THEN 'best' WHEN loss <= median THEN 'good' WHEN loss <= upper THEN 'fair' ELSE 'poor' END
MATCH path = (a)-[e]->(b)
RETURN path
ORDER BY loss, a.id, b.id
LIMIT $limit
