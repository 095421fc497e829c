// Define metrics, with their direction and range. Run after lock.cypher in one transaction.
// Parameters: names, of all; rising, of those of which larger is better; ranges, a map of minimum_<name> and maximum_<name>.
MATCH (graph:MatchGraph)
SET graph.metrics = [name IN graph.metrics WHERE NOT name IN $names] + $names,
    graph.larger_is_better = [name IN graph.larger_is_better WHERE NOT name IN $names] + $rising,
    graph += $ranges
