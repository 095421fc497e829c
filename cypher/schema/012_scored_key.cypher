// One edge for each variant and prompt.
// Without the constraint, concurrent MERGEs would leave duplicates.
CREATE CONSTRAINT scored_key IF NOT EXISTS
FOR ()-[e:SCORED]-() REQUIRE e.key IS UNIQUE
