// Give our labels to the prompts of an earlier graph: those with text, split, probe and embedding.
MATCH (p:Prompt)
WHERE p.id IS :: STRING NOT NULL AND p.text IS :: STRING NOT NULL AND p.probe IS :: STRING NOT NULL AND p.embedding IS NOT NULL
  AND p.split IN ['train', 'validation', 'test']
SET p:MatchGraphPrompt
FOREACH (_ IN CASE WHEN p.split = 'train' THEN [1] ELSE [] END | SET p:MatchGraphTrainPrompt REMOVE p:TrainPrompt)
