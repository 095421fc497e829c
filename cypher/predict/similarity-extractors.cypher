// The metrics by which datasets were compared, and the extractors of each, most often used first; an extractor that is not
// recorded is null.
// Parameters: names, the metrics that may be there.
MATCH (:MatchGraphDataset)-[e:SIMILAR]->(:MatchGraphDataset)
UNWIND $names AS name
WITH name, e
WHERE e[name] IS NOT NULL
RETURN name, e[name + '__extractor'] AS extractor, count(e) AS pairs
ORDER BY pairs DESC, name, extractor
