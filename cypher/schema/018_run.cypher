// One node for each fine-tuning run of the ledger.
// Without the constraint, concurrent MERGEs would leave duplicates.
CREATE CONSTRAINT matchgraph_run IF NOT EXISTS
FOR (n:MatchGraphRun) REQUIRE n.id IS UNIQUE
