// Remove the key from edges of an earlier graph that lead to the datasets $datasets.
MATCH (:MatchGraphModel|MatchGraphDataset)-[e:PERFORMS|SIMILAR]->(d:MatchGraphDataset)
WHERE d.id IN $datasets
REMOVE e.key
