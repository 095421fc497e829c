"""How the small zoo was made: icons, corpus, models, probes and students. Not installed."""
