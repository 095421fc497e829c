// The metrics by which fine-tuned models were measured, most often used first
// Parameters: names, the metrics that may be there.
MATCH (:MatchGraphModel)-[e:PERFORMS]->(:MatchGraphDataset)
UNWIND $names AS name
WITH name, e
WHERE e[name] IS NOT NULL
RETURN name, count(e) AS results
ORDER BY results DESC, name
