// How many values of a metric, before and after fine-tuning, are at most 1, as shares are, and how many above.
MATCH (:MatchGraphModel)-[edge:PERFORMS]->(:MatchGraphDataset)
UNWIND [edge[$metric], edge['initial_' + $metric]] AS value
WITH value WHERE value > 0
RETURN count(CASE WHEN value <= 1 THEN 1 END) AS shares, count(CASE WHEN value > 1 THEN 1 END) AS others
