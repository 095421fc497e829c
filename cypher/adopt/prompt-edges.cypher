// Remove the key from the edges of prompts and of students of an earlier graph.
MATCH (:MatchGraphVariant|MatchGraphModel)-[e:SCORED|DISTILLED_FROM]->(:MatchGraphPrompt|MatchGraphModel)
REMOVE e.key
