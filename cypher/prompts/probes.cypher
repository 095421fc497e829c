// The CLIPs that embedded the prompts.
MATCH (p:MatchGraphPrompt)
RETURN DISTINCT p.probe AS probe
ORDER BY probe
