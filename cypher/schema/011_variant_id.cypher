// One node for each variant.
// Without the constraint, concurrent MERGEs would leave duplicates.
CREATE CONSTRAINT variant_id IF NOT EXISTS
FOR (n:Variant) REQUIRE n.id IS UNIQUE
