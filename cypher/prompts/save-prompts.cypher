// Save prompts; those to learn from are labelled, so that the vector index holds them alone.
UNWIND $rows AS row
MERGE (p:MatchGraphPrompt {id: row.id})
SET p = row.properties, p:Prompt
FOREACH (_ IN CASE WHEN row.train THEN [1] ELSE [] END | SET p:MatchGraphTrainPrompt)
FOREACH (_ IN CASE WHEN row.train THEN [] ELSE [1] END | REMOVE p:MatchGraphTrainPrompt)
