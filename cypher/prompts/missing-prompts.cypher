// Which of some ids are no prompts.
UNWIND $ids AS id
OPTIONAL MATCH (p:Prompt {id: id})
WITH id, p
WHERE p IS NULL
RETURN id
