// All models, with how much is recorded of each.
MATCH (m:MatchGraphModel)
RETURN m.id AS model, m.family AS family, COUNT { (m)-[:PERFORMS]->(:MatchGraphDataset) } AS datasets_measured,
       COUNT { (m)<-[:OF]-(:MatchGraphRun) } AS runs, COUNT { (m)<-[:OF]-(:MatchGraphVariant) } AS variants
ORDER BY model
