// Nearest datasets by their mean probe embedding.
// No dimension is fixed: each probe has its own, and a vector is compared with those of its length only.
CREATE VECTOR INDEX matchgraph_dataset_embedding IF NOT EXISTS
FOR (d:MatchGraphDataset) ON d.embedding
OPTIONS {indexConfig: {`vector.similarity_function`: 'cosine', `vector.quantization.enabled`: false}}
