// Model-dataset edges by one metric, after fine-tuning (value) and before it (initial), with the standard error of each and the
// extractor that it was measured with.
// One row for each dataset: what a row costs to send is much more than what an edge does.
// An edge is [model, value, initial, standard error of value, of initial, extractor of value, of initial].
MATCH (d:MatchGraphDataset)
RETURN d.id AS dataset,
       [(m:MatchGraphModel)-[e:PERFORMS]->(d) WHERE e[$metric] IS NOT NULL OR e['initial_' + $metric] IS NOT NULL |
        [m.id, e[$metric], e['initial_' + $metric],
         e[$metric + '__standard_error'], e['initial_' + $metric + '__standard_error'],
         e[$metric + '__extractor'], e['initial_' + $metric + '__extractor']]] AS edges
