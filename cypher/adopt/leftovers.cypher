// Delete the nodes on which an earlier graph recorded its migrations and its metrics, after metrics.cypher.
MATCH (graph:MatchGraph)
MATCH (n:Schema|Metric)
WHERE NOT EXISTS { (n)--() }
  AND ((labels(n) = ['Schema'] AND n.version IN range(1, 14)
        AND all(key IN keys(n) WHERE key IN ['version', 'applied', 'locked']))
       OR (labels(n) = ['Metric'] AND n.name IN graph.metrics AND n.larger_is_better IS :: BOOLEAN NOT NULL
           AND all(key IN keys(n) WHERE key IN ['name', 'larger_is_better', 'minimum', 'maximum'])))
DELETE n
