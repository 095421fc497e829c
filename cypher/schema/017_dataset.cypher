// One node for each dataset.
// Without the constraint, concurrent MERGEs would leave duplicates.
CREATE CONSTRAINT matchgraph_dataset IF NOT EXISTS
FOR (n:MatchGraphDataset) REQUIRE n.id IS UNIQUE
