"""The metrics whose direction and range are known; any other is a (:Metric) node saved with
`MatchingGraph.save_metric`.

Each metric says as data what it is, so that a query, a validation or a table can ask it.
"""

from __future__ import annotations

from matchgraph.graphdb.models import Metric

DEFAULT_METRIC = "clip_fid"

# KID and CMMD are unbiased estimates of a squared distance, so they may fall a little below zero.
KNOWN_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("clip_fid", minimum=0),
        Metric("fid", minimum=0),
        Metric("imagebind_fid", minimum=0),
        Metric("dinov2_fid", minimum=0),
        Metric("siglip_fid", minimum=0),
        Metric("kid"),
        Metric("clip_kid"),
        Metric("dinov2_kid"),
        Metric("cmmd"),
        Metric("lpips", minimum=0),
        Metric("perplexity", minimum=1),
        Metric("validation_loss"),
        # Shares or percentages: one zoo must keep to one of them.
        Metric("accuracy", larger_is_better=True, minimum=0, maximum=100),
        Metric("f1", larger_is_better=True, minimum=0, maximum=100),
        Metric("clip_score", larger_is_better=True),
        Metric("image_reward", larger_is_better=True),
        Metric("pick_score", larger_is_better=True),
        Metric("hps", larger_is_better=True),
        Metric("aesthetic", larger_is_better=True),
        Metric("inception_score", larger_is_better=True, minimum=1),
        Metric("precision", larger_is_better=True, minimum=0, maximum=1),
        Metric("recall", larger_is_better=True, minimum=0, maximum=1),
        Metric("density", larger_is_better=True, minimum=0),
        Metric("coverage", larger_is_better=True, minimum=0, maximum=1),
        Metric("cosine_similarity", larger_is_better=True, minimum=-1, maximum=1),
    )
}
