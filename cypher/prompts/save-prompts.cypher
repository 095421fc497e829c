// Save prompts; those to learn from are labelled, so that the vector index holds them alone.
UNWIND $rows AS row
MERGE (p:Prompt {id: row.id})
SET p = row.properties
FOREACH (_ IN CASE WHEN row.train THEN [1] ELSE [] END | SET p:TrainPrompt)
FOREACH (_ IN CASE WHEN row.train THEN [] ELSE [1] END | REMOVE p:TrainPrompt)
