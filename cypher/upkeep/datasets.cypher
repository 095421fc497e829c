// All datasets, with how much is recorded of each.
MATCH (d:MatchGraphDataset)
RETURN d.id AS dataset, d.images AS images, d.captioned AS captioned, COUNT { (d)<-[:PERFORMS]-(:MatchGraphModel) } AS models_measured,
       COUNT { (d)-[:SIMILAR]-(:MatchGraphDataset) } AS compared_with, COUNT { (d)<-[:ON]-(:MatchGraphRun) } AS runs
ORDER BY dataset
