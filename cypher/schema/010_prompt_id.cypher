// One node for each prompt.
// Without the constraint, concurrent MERGEs would leave duplicates.
CREATE CONSTRAINT prompt_id IF NOT EXISTS
FOR (n:Prompt) REQUIRE n.id IS UNIQUE
