// One row, unless an extractor has measured a dataset of the graph that is not among those which the new ones were compared with.
// Run after lock.cypher in one transaction.
// Parameters: known, a list of {extractor, datasets}.
WITH [of IN $known WHERE EXISTS {
       MATCH (d:MatchGraphDataset)-[:DESCRIBED_BY]->(:MatchGraphStatistics {extractor: of.extractor})
       WHERE NOT d.id IN of.datasets
     }] AS outdated
WHERE size(outdated) = 0
RETURN true AS current
