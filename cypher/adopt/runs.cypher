// Give our label to the runs of an earlier graph: those with the ledger's properties, of a model and on a dataset of ours.
MATCH (:MatchGraphModel)<-[:OF]-(run:Run)-[:ON]->(:MatchGraphDataset)
WHERE run.id IS :: STRING NOT NULL AND run.config IS :: STRING NOT NULL AND run.fence IS :: INTEGER NOT NULL
  AND run.status IN ['QUEUED', 'RUNNING', 'DONE', 'FAILED', 'CANCELLED']
SET run:MatchGraphRun
