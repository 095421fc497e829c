// Nearest prompts to learn from, by the embedding of their text; held-out ones do not have the label.
// Quantised vectors would be smaller and lose recall; a hundred thousand whole ones fit in memory.
CREATE VECTOR INDEX prompt_embedding IF NOT EXISTS
FOR (p:TrainPrompt) ON p.embedding
OPTIONS {indexConfig: {`vector.similarity_function`: 'cosine', `vector.quantization.enabled`: false}}
