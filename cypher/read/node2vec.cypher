// Project a graph out of parameters, embed its nodes, and drop it.
// $source, $target and $weight are columns: a row without target and weight is a node, the others are edges, which have no direction.
// Nodes are integers.
UNWIND range(0, size($source) - 1) AS row
WITH gds.graph.project(
  $projection, $source[row], $target[row],
  {relationshipProperties: CASE WHEN $target[row] IS NULL THEN {} ELSE {weight: $weight[row]} END},
  {undirectedRelationshipTypes: ['*']}
) AS graph
CALL gds.node2vec.stream(graph.graphName, $config) YIELD nodeId, embedding
RETURN nodeId AS node, embedding
