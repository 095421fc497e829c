// Which of some ids are no prompts.
UNWIND $ids AS id
OPTIONAL MATCH (p:MatchGraphPrompt {id: id})
WITH id, p
WHERE p IS NULL
RETURN id
