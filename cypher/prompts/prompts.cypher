// All prompts.
MATCH (p:MatchGraphPrompt)
RETURN properties(p) AS properties
ORDER BY p.id
