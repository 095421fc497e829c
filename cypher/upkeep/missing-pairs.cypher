// Pairs of datasets that one extractor has measured and that were not compared by it.
MATCH (a:MatchGraphDataset)-[:DESCRIBED_BY]->(s:MatchGraphStatistics)
MATCH (b:MatchGraphDataset)-[:DESCRIBED_BY]->(:MatchGraphStatistics {extractor: s.extractor})
WHERE a.id < b.id
  AND NOT EXISTS { (a)-[e:SIMILAR]-(b) WHERE any(key IN keys(e) WHERE key ENDS WITH '__extractor' AND e[key] = s.extractor) }
RETURN DISTINCT a.id AS dataset, b.id AS other, s.extractor AS extractor
ORDER BY dataset, other, extractor
