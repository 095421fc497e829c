// Copy the metrics that an earlier graph had as nodes to the one node that is about the graph.
MATCH (graph:MatchGraph)
MATCH (m:Metric)
WHERE labels(m) = ['Metric'] AND NOT EXISTS { (m)--() }
  AND m.name IS :: STRING NOT NULL AND m.larger_is_better IS :: BOOLEAN NOT NULL
  AND all(key IN keys(m) WHERE key IN ['name', 'larger_is_better', 'minimum', 'maximum'])
SET graph['minimum_' + m.name] = m.minimum, graph['maximum_' + m.name] = m.maximum
WITH graph, collect(m.name) AS names, collect(CASE WHEN m.larger_is_better THEN m.name END) AS rising
SET graph.metrics = [name IN graph.metrics WHERE NOT name IN names] + names,
    graph.larger_is_better = [name IN graph.larger_is_better WHERE NOT name IN rising] + rising
