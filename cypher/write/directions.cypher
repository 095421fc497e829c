// Keep the directions that statistics by an extractor are sketched in, unless there are some.
// Run after lock.cypher in one transaction.
// Parameters: name, of the property; value, a map of it.
MATCH (graph:MatchGraph)
WHERE graph[$name] IS NULL
SET graph += $value
