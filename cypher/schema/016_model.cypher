// One node for each model.
// Without the constraint, concurrent MERGEs would leave duplicates.
CREATE CONSTRAINT matchgraph_model IF NOT EXISTS
FOR (n:MatchGraphModel) REQUIRE n.id IS UNIQUE
