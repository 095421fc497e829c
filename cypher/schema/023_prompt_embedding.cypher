// Nearest prompts to learn from, by the embedding of their text; held-out ones do not have the label.
// Quantised vectors would be smaller and lose recall; a hundred thousand whole ones fit in memory.
CREATE VECTOR INDEX matchgraph_prompt_embedding IF NOT EXISTS
FOR (p:MatchGraphTrainPrompt) ON p.embedding
OPTIONS {indexConfig: {`vector.similarity_function`: 'cosine', `vector.quantization.enabled`: false}}
