// The CLIPs that embedded the prompts.
MATCH (p:Prompt)
RETURN DISTINCT p.probe AS probe
ORDER BY probe
