// Where a model's results on a dataset come from
// One row for each recorded value: what it was measured with and, if a run of the ledger made it, that run's settings.
// :param model model -- id of the model
// :param dataset dataset -- id of the dataset
MATCH (:MatchGraphModel {id: $model})-[e:PERFORMS]->(:MatchGraphDataset {id: $dataset})
MATCH (graph:MatchGraph)
UNWIND graph.metrics AS metric
UNWIND [{stage: 'finetuned', name: metric}, {stage: 'initial', name: 'initial_' + metric}] AS source
WITH e, metric, source, source.name + '__' AS prefix
WHERE e[source.name] IS NOT NULL
OPTIONAL MATCH (run:MatchGraphRun {id: e[prefix + 'run']})
RETURN metric, source.stage AS stage, e[source.name] AS value, e[prefix + 'run'] AS run,
       e[prefix + 'n_real'] AS n_real, e[prefix + 'n_gen'] AS n_gen, e[prefix + 'extractor'] AS extractor,
       e[prefix + 'resize'] AS resize,
       [k IN keys(e) WHERE k STARTS WITH prefix
        AND NOT substring(k, size(prefix)) IN ['run', 'n_real', 'n_gen', 'extractor', 'resize']
        | substring(k, size(prefix)) + '=' + coalesce(
            toStringOrNull(CASE WHEN e[k] IS :: FLOAT NOT NULL THEN round(e[k], CASE WHEN abs(e[k]) < 1 THEN 5 ELSE 2 END) ELSE e[k] END),
            '[...]')] AS further,
       properties(run) AS config
ORDER BY metric, stage
