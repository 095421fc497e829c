// One edge for each student and teacher.
// Without the constraint, concurrent MERGEs would leave duplicates.
CREATE CONSTRAINT distilled_from_key IF NOT EXISTS
FOR ()-[e:DISTILLED_FROM]-() REQUIRE e.key IS UNIQUE
