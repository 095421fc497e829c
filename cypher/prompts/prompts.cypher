// All prompts.
MATCH (p:Prompt)
RETURN properties(p) AS properties
ORDER BY p.id
