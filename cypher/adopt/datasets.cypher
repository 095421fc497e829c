// Give our label to the datasets of an earlier graph, by the rule of models.cypher.
MATCH (d:Dataset)
WHERE labels(d) = ['Dataset'] AND d.id IS :: STRING NOT NULL
  AND ((d.name IS :: STRING NOT NULL
        AND NOT EXISTS { (d)-[r]-() WHERE NOT type(r) IN ['PERFORMS', 'SIMILAR', 'DESCRIBED_BY', 'ON'] })
       OR EXISTS { (d)-[e:PERFORMS|SIMILAR]-(:Model|Dataset) WHERE e.key IS :: STRING NOT NULL AND e.key STARTS WITH '["' })
SET d:MatchGraphDataset
