// One node for each dataset, extractor and resize mode.
// Without the constraint, concurrent MERGEs would leave duplicates.
CREATE CONSTRAINT matchgraph_statistics IF NOT EXISTS
FOR (n:MatchGraphStatistics) REQUIRE n.key IS UNIQUE
