// Pairs of datasets that one extractor has measured and that were not compared by it, unless both were compared with their nearest
// ones; of values without a recorded extractor, pairs
// of datasets that were both compared by a metric, but not with each other.
CALL () {
  MATCH (a:MatchGraphDataset)-[:DESCRIBED_BY]->(s:MatchGraphStatistics)
  MATCH (b:MatchGraphDataset)-[:DESCRIBED_BY]->(t:MatchGraphStatistics {extractor: s.extractor})
  WHERE a.id < b.id
    AND none(metric IN coalesce(s.searched, []) WHERE metric IN coalesce(t.searched, []))
    AND NOT EXISTS { (a)-[e:SIMILAR]-(b) WHERE any(key IN keys(e) WHERE key ENDS WITH '__extractor' AND e[key] = s.extractor) }
  RETURN DISTINCT a.id AS dataset, b.id AS other, s.extractor AS extractor
  UNION
  MATCH (graph:MatchGraph)
  UNWIND graph.metrics AS metric
  MATCH (d:MatchGraphDataset)-[e:SIMILAR]-(:MatchGraphDataset)
  WHERE e[metric] IS NOT NULL AND e[metric + '__extractor'] IS NULL
  WITH metric, collect(DISTINCT d) AS compared
  UNWIND compared AS a
  UNWIND compared AS b
  WITH metric, a, b
  WHERE a.id < b.id AND NOT EXISTS { (a)-[e:SIMILAR]-(b) WHERE e[metric] IS NOT NULL }
  RETURN DISTINCT a.id AS dataset, b.id AS other, 'not-recorded' AS extractor
}
RETURN dataset, other, extractor
ORDER BY dataset, other, extractor
