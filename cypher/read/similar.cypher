// Dataset-dataset edges by one metric, with the extractor that each value was measured with.
// One row for each dataset: what a row costs to send is much more than what an edge does. An edge is [other, value, extractor].
MATCH (d:MatchGraphDataset)
RETURN d.id AS dataset,
       [(d)-[e:SIMILAR]->(o:MatchGraphDataset) WHERE e[$metric] IS NOT NULL | [o.id, e[$metric], e[$metric + '__extractor']]] AS edges
