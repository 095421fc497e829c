// One node for each variant.
// Without the constraint, concurrent MERGEs would leave duplicates.
CREATE CONSTRAINT matchgraph_variant IF NOT EXISTS
FOR (n:MatchGraphVariant) REQUIRE n.id IS UNIQUE
