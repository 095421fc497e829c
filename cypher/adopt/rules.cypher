// Constraints and indexes of schema versions 1 to 14, by the names that they were given, where they are still there.
// Parameters: constraints, indexes: maps from name to label or relationship type.
SHOW INDEXES YIELD name, labelsOrTypes, owningConstraint
WHERE $indexes[name] IN labelsOrTypes OR $constraints[owningConstraint] IN labelsOrTypes
RETURN name, owningConstraint IS NOT NULL AS is_constraint
