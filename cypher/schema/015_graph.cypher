// The one node that holds version, metrics and lock.
// Without the constraint, concurrent MERGEs would leave duplicates.
CREATE CONSTRAINT matchgraph_graph IF NOT EXISTS
FOR (n:MatchGraph) REQUIRE n.name IS UNIQUE
