// The metrics defined in the graph, with their direction and range.
MATCH (graph:MatchGraph)
UNWIND graph.metrics AS name
RETURN name, name IN graph.larger_is_better AS larger_is_better, graph['minimum_' + name] AS minimum,
       graph['maximum_' + name] AS maximum
ORDER BY name
