// Shortest path from one dataset to another over similar datasets
// Dijkstra's shortest path by the sum of distances. A squared Frechet distance breaks the triangle inequality, so a path may be
// shorter than the direct edge. If larger values of the metric are better, the distance is the largest value minus the value.
// :param from dataset -- id of the dataset to start from
// :param to dataset -- id of the dataset to reach
// :param similarity metric clip_fid -- metric by which datasets were compared
MATCH (graph:MatchGraph)
WITH $similarity IN graph.larger_is_better AS larger
MATCH (a:MatchGraphDataset {id: $from}), (b:MatchGraphDataset {id: $to})
WHERE EXISTS { (a)-[s:SIMILAR]-() WHERE s[$similarity] IS NOT NULL }
  AND EXISTS { (b)-[s:SIMILAR]-() WHERE s[$similarity] IS NOT NULL }
CALL (larger) {
  MATCH (:MatchGraphDataset)-[s:SIMILAR]->(:MatchGraphDataset)
  WHERE s[$similarity] IS NOT NULL
  RETURN max(s[$similarity]) AS greatest, min(s[$similarity]) AS least
}
MATCH (d:MatchGraphDataset)-[s:SIMILAR]->(o:MatchGraphDataset)
WHERE s[$similarity] IS NOT NULL
WITH a, b, d, o,
     CASE WHEN larger THEN greatest - s[$similarity]
          WHEN least < 0 THEN s[$similarity] - least
          ELSE s[$similarity] END AS cost
WITH a, b, gds.graph.project('dataset-path-' + randomUUID(), d, o, {relationshipProperties: {cost: cost}},
                             {undirectedRelationshipTypes: ['*']}) AS graph
CALL gds.shortestPath.dijkstra.stream(graph.graphName, {
  sourceNode: a, targetNode: b, relationshipWeightProperty: 'cost', concurrency: 1
}) YIELD nodeIds, costs
WITH graph, collect({nodes: nodeIds, costs: costs}) AS paths
CALL gds.graph.drop(graph.graphName) YIELD graphName
UNWIND paths AS path
UNWIND range(0, size(path.nodes) - 1) AS step
RETURN step, gds.util.asNode(path.nodes[step]).id AS dataset,
       CASE WHEN step > 0 THEN path.costs[step] - path.costs[step - 1] END AS distance, path.costs[step] AS total
ORDER BY step
