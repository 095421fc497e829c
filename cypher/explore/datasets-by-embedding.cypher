// Datasets nearest to one by mean probe embedding
// Uses the vector index, so it needs no recorded similarity; cosine is 1 for the same direction. Datasets embedded with a
// probe of another dimension are not compared.
// :param dataset dataset -- id of the dataset
// :param limit integer 20 -- maximum number of rows
MATCH (d:MatchGraphDataset {id: $dataset})
WHERE d.embedding IS NOT NULL
CALL db.index.vector.queryNodes('matchgraph_dataset_embedding', $limit + 1, d.embedding) YIELD node
WITH d, node
WHERE node <> d AND size(node.embedding) = size(d.embedding)
RETURN node.id AS dataset, 2 * vector.similarity.cosine(d.embedding, node.embedding) - 1 AS cosine, node.probe AS probe
ORDER BY cosine DESC, dataset
LIMIT $limit
