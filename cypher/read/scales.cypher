// How many values of a metric, before and after fine-tuning, are shares if they are of 1 or less.
MATCH (:MatchGraphModel)-[edge:PERFORMS]->(:MatchGraphDataset)
UNWIND [edge[$metric], edge['initial_' + $metric]] AS value
WITH value WHERE value > 0
RETURN count(CASE WHEN value <= 1 THEN 1 END) AS shares, count(CASE WHEN value > 1 THEN 1 END) AS others
