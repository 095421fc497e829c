// One node for each prompt.
// Without the constraint, concurrent MERGEs would leave duplicates.
CREATE CONSTRAINT matchgraph_prompt IF NOT EXISTS
FOR (n:MatchGraphPrompt) REQUIRE n.id IS UNIQUE
