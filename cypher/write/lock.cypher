// Wait until no other transaction writes to the matching graph, and keep others waiting until this one ends.
// Setting a property locks the node. It is taken before all other locks, so that writers cannot deadlock, and it is what keeps
// edges single: relationships have no label of ours to put a constraint on.
MATCH (graph:MatchGraph)
SET graph.lock = true
REMOVE graph.lock
