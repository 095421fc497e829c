// All that is known of one model on one dataset: values by metric, and what each was measured with.
// Parameters: model, dataset.
MATCH (:MatchGraphModel {id: $model})-[result:PERFORMS]->(:MatchGraphDataset {id: $dataset})
RETURN properties(result) AS properties
