// What belongs to a dataset and goes with it.
MATCH (d:MatchGraphDataset {id: $id})
RETURN COUNT { (d)<-[:PERFORMS]-(:MatchGraphModel) } AS results, COUNT { (d)-[:SIMILAR]-(:MatchGraphDataset) } AS similarities,
       COUNT { (d)-[:DESCRIBED_BY]->(:MatchGraphStatistics) } AS statistics, COUNT { (d)<-[:ON]-(:MatchGraphRun) } AS runs,
       0 AS variants, 0 AS scores
