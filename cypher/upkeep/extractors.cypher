// Metrics whose values were measured with several extractors, so that they cannot be compared.
MATCH (graph:MatchGraph)
UNWIND graph.metrics AS metric
MATCH (:MatchGraphModel|MatchGraphDataset)-[e:PERFORMS|SIMILAR]->(:MatchGraphDataset)
WHERE e[metric + '__extractor'] IS NOT NULL
WITH metric, type(e) AS edges, e[metric + '__extractor'] AS extractor, count(*) AS values
ORDER BY values DESC, extractor
WITH metric, edges, collect(extractor) AS extractors
WHERE size(extractors) > 1
RETURN metric, edges, extractors ORDER BY metric, edges
