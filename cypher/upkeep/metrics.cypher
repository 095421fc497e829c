// All metrics, with how many values there are by each.
MATCH (graph:MatchGraph)
UNWIND graph.metrics AS metric
RETURN metric, metric IN graph.larger_is_better AS larger_is_better,
       COUNT { (:MatchGraphModel)-[e:PERFORMS]->(:MatchGraphDataset) WHERE e[metric] IS NOT NULL } AS results,
       COUNT { (:MatchGraphDataset)-[e:SIMILAR]->(:MatchGraphDataset) WHERE e[metric] IS NOT NULL } AS similarities
ORDER BY metric
