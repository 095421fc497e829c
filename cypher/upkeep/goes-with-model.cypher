// What belongs to a model and goes with it.
MATCH (m:MatchGraphModel {id: $id})
RETURN COUNT { (m)-[:PERFORMS]->(:MatchGraphDataset) } AS results, 0 AS similarities, 0 AS statistics,
       COUNT { (m)<-[:OF]-(:MatchGraphRun) } AS runs, COUNT { (m)<-[:OF]-(:MatchGraphVariant) } AS variants,
       COUNT { (m)<-[:OF]-(:MatchGraphVariant)-[:SCORED]->(:MatchGraphPrompt) } AS scores
