// Models and datasets that nothing is recorded of, and feature statistics of no dataset.
CALL () {
  MATCH (m:MatchGraphModel)
  WHERE NOT EXISTS { (m)-[:PERFORMS|DISTILLED_FROM]-(:MatchGraphModel|MatchGraphDataset) }
    AND NOT EXISTS { (m)<-[:OF]-(:MatchGraphRun|MatchGraphVariant) }
  RETURN 'model' AS kind, m.id AS id
  UNION ALL
  MATCH (d:MatchGraphDataset)
  WHERE NOT EXISTS { (d)-[:PERFORMS|SIMILAR]-(:MatchGraphModel|MatchGraphDataset) } AND NOT EXISTS { (d)<-[:ON]-(:MatchGraphRun) }
  RETURN 'dataset' AS kind, d.id AS id
  UNION ALL
  MATCH (s:MatchGraphStatistics)
  WHERE NOT EXISTS { (s)<-[:DESCRIBED_BY]-(:MatchGraphDataset) }
  RETURN 'statistics' AS kind, s.key AS id
}
RETURN kind, id ORDER BY kind, id
