"""The exploration queries on a graph small enough to work every row out by hand.

clip_fid (smaller is better) after fine-tuning; gamma was not measured on dogs:

            birds  cats  dogs  maps
    alpha      10     4     5    30
    beta        8     6     4    12
    gamma       5     5     -    10

Distances: birds-cats 2, birds-dogs 3, cats-dogs 1, birds-maps 8, cats-maps 9, dogs-maps 20.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest

from matchgraph.drawing import Drawing
from matchgraph.graphdb import queries
from matchgraph.graphdb.distillation import DistillationGraph, Distilled
from matchgraph.graphdb.errors import NodeNotFound, ParameterInvalid, UnknownMetric
from matchgraph.graphdb.explore import explore
from matchgraph.graphdb.models import Dataset, Metric, Model, Result, Similar, Statistics
from matchgraph.graphdb.prompt_models import Prompt, Score, Variant
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner

Ask: TypeAlias = Callable[..., list[tuple[Any, ...]]]

VALUES = {
    "alpha": {"birds": 10, "cats": 4, "dogs": 5, "maps": 30},
    "beta": {"birds": 8, "cats": 6, "dogs": 4, "maps": 12},
    "gamma": {"birds": 5, "cats": 5, "maps": 10},
}
DISTANCES = {
    ("birds", "cats"): 2,
    ("birds", "dogs"): 3,
    ("cats", "dogs"): 1,
    ("birds", "maps"): 8,
    ("cats", "maps"): 9,
    ("dogs", "maps"): 20,
}
RELEASED_AND_TFLOP = {"alpha": ("2022-08", 10.0), "beta": ("2023-07", 20.0), "gamma": ("2024-10", 100.0)}


@pytest.fixture
def zoo(graph: MatchingGraph) -> MatchingGraph:
    """The graph of the module's docstring, with the same results turned into accuracies as well."""
    graph.save_models([Model(m, {"released": r, "tflop": t}) for m, (r, t) in RELEASED_AND_TFLOP.items()])
    angles = {"birds": 0.0, "cats": 60.0, "dogs": 90.0}
    datasets = [
        Dataset(
            name,
            {"images": 100, "captioned": True, "probe": "clip"},
            (float(np.cos(np.radians(angle))), float(np.sin(np.radians(angle)))),
        )
        for name, angle in angles.items()
    ]
    statistics = Statistics("birds", "e1", "clip", 100, np.zeros(2), np.eye(2))
    similar = [Similar(a, b, "clip_fid", value) for (a, b), value in DISTANCES.items()]
    graph.save_datasets(
        [*datasets, Dataset("maps", {"probe": "other"}, (1.0, 0.0, 0.0))], [statistics], similar
    )
    graph.save_similarities(
        [Similar(a, b, "cosine_similarity", 1 - v / 20) for (a, b), v in DISTANCES.items()]
    )
    results = [(m, d, value) for m, row in VALUES.items() for d, value in row.items()]
    graph.save_results(
        [
            *(Result(m, d, "clip_fid", v) for m, d, v in results),
            *(Result(m, d, "accuracy", 1 - v / 100) for m, d, v in results),
            Result("alpha", "birds", "clip_fid", 20, "initial"),
            Result("gamma", "birds", "clip_fid", 4, "initial"),
            Result("alpha", "birds", "accuracy", 0.8, "initial"),
        ]
    )
    return graph


@pytest.fixture
def ask(zoo: MatchingGraph, runner: Runner) -> Ask:  # noqa: ARG001
    """The rows of a query on the zoo, defaults filled in, floats rounded so that they can be written down."""

    def rows_of(name: str, **given: Any) -> list[tuple[Any, ...]]:
        _, rows = explore(runner, name, given)
        return [tuple(round(v, 4) if isinstance(v, float) else v for v in row.values()) for row in rows]

    return rows_of


def test_best_models_of_a_dataset(ask: Ask) -> None:
    assert ask("best-models", dataset="birds") == [
        (1, "gamma", 5.0, 4.0),
        (2, "beta", 8.0, None),
        (3, "alpha", 10.0, 20.0),
    ]
    assert ask("best-models", dataset="birds", limit=1) == [(1, "gamma", 5.0, 4.0)]


def test_best_models_follow_the_direction_of_the_metric(ask: Ask) -> None:
    assert ask("best-models", dataset="birds", metric="accuracy") == [
        (1, "gamma", 0.95, None),
        (2, "beta", 0.92, None),
        (3, "alpha", 0.9, 0.8),
    ]


def test_best_models_share_a_rank_in_a_tie(zoo: MatchingGraph, ask: Ask) -> None:
    zoo.save_results([Result("beta", "birds", "clip_fid", 5)])
    assert [row[:2] for row in ask("best-models", dataset="birds")] == [
        (1, "beta"),
        (1, "gamma"),
        (3, "alpha"),
    ]


@pytest.mark.parametrize("similarity", ["clip_fid", "cosine_similarity"])
def test_datasets_like_mine(ask: Ask, similarity: str) -> None:
    rows = ask("datasets-like-mine", dataset="birds", similarity=similarity)
    values = {"clip_fid": [2.0, 3.0, 8.0], "cosine_similarity": [0.9, 0.85, 0.6]}[similarity]
    best = [("cats", "alpha", 4.0), ("dogs", "beta", 4.0), ("maps", "gamma", 10.0)]
    assert rows == [(d, value, model, fid) for (d, model, fid), value in zip(best, values, strict=True)]


def test_a_dataset_without_results_is_listed_as_neighbour(zoo: MatchingGraph, ask: Ask) -> None:
    zoo.save_datasets([Dataset("new")], similar=[Similar("new", "birds", "clip_fid", 0.5)])
    assert ask("datasets-like-mine", dataset="birds", limit=1) == [("new", 0.5, None, None)]


def test_datasets_by_embedding_compare_vectors_of_one_length(ask: Ask, runner: Runner) -> None:
    runner.read("CALL db.awaitIndexes(60)")
    assert ask("datasets-by-embedding", dataset="birds") == [
        ("cats", 0.5, "clip"),
        ("dogs", 0.0, "clip"),
    ]
    assert ask("datasets-by-embedding", dataset="maps") == []


def test_where_the_newest_model_wins(ask: Ask) -> None:
    # On cats the newest, gamma (5), loses to alpha (4); on dogs the newest measured is beta.
    expected = [
        ("birds", "gamma", "2024-10", 5.0, "beta", 8.0),
        ("dogs", "beta", "2023-07", 4.0, "alpha", 5.0),
        ("maps", "gamma", "2024-10", 10.0, "beta", 12.0),
    ]
    assert ask("where-newest-wins") == expected
    assert [row[:2] for row in ask("where-newest-wins", metric="accuracy")] == [r[:2] for r in expected]


@pytest.mark.parametrize("metric", ["clip_fid", "accuracy"])
def test_neighbours_that_disagree(ask: Ask, metric: str) -> None:
    # Nearest of each: birds-cats, cats-dogs, dogs-cats, maps-birds. On cats-dogs both models swap; on
    # birds-cats gamma stays ahead of beta and the two other pairs swap; birds-maps agree and are left out.
    assert ask("neighbour-disagreement", neighbours=1, metric=metric) == [
        ("cats", "dogs", 1.0, 2, "alpha", "beta", 1.0),
        ("birds", "cats", 2.0, 3, "gamma", "alpha", 0.6667),
    ]


def test_disagreement_looks_at_the_most_alike_when_larger_is_nearer(ask: Ask) -> None:
    rows = ask("neighbour-disagreement", neighbours=1, similarity="cosine_similarity")
    assert [row[:3] for row in rows] == [("cats", "dogs", 0.95), ("birds", "cats", 0.9)]


@pytest.mark.parametrize("metric", ["clip_fid", "accuracy"])
def test_missing_edges_worth_measuring(zoo: MatchingGraph, ask: Ask, metric: str) -> None:
    zoo.save_models([Model("delta")])
    # gamma stands at 1/2 on cats, the nearest to dogs, and at 1 on birds, the next.
    nothing_known = [("delta", d, None, 0, None) for d in ("birds", "cats", "dogs", "maps")]
    assert ask("missing-edges", neighbours=2, metric=metric) == [
        ("gamma", "dogs", 0.75, 2, "cats"),
        *nothing_known,
    ]
    assert ask("missing-edges", neighbours=1, limit=1, metric=metric) == [("gamma", "dogs", 0.5, 1, "cats")]


def test_provenance_of_an_edge(zoo: MatchingGraph, ask: Ask, runner: Runner) -> None:
    runner.write("MERGE (r:MatchGraphRun {id: 'run-7'}) SET r.steps = 300, r.rank = 8")
    zoo.save_results(
        [
            Result("gamma", "dogs", "kid", 0.02, provenance={"n_gen": 50, "std": 0.001}),
            Result(
                "gamma", "dogs", "clip_fid", 7, provenance={"run": "run-7", "n_real": 80, "extractor": "e1"}
            ),
            Result("gamma", "dogs", "clip_fid", 9, "initial", {"n_gen": 40, "resize": "clean"}),
        ]
    )
    config = {"id": "run-7", "steps": 300, "rank": 8}
    assert ask("provenance", model="gamma", dataset="dogs") == [
        ("clip_fid", "finetuned", 7.0, "run-7", 80, None, "e1", None, [], config),
        ("clip_fid", "initial", 9.0, None, None, 40, None, "clean", [], None),
        ("kid", "finetuned", 0.02, None, None, 50, None, None, ["std=0.001"], None),
    ]


def test_profile_of_a_model(ask: Ask) -> None:
    assert ask("model-profile", model="gamma") == [
        ("birds", 1, 3, 5.0, 4.0, "gamma", 5.0),
        ("maps", 1, 3, 10.0, None, "gamma", 10.0),
        ("cats", 2, 3, 5.0, None, "alpha", 4.0),
    ]
    assert [row[:2] for row in ask("model-profile", model="gamma", metric="accuracy")] == [
        ("birds", 1),
        ("maps", 1),
        ("cats", 2),
    ]


def test_profile_of_a_dataset(ask: Ask) -> None:
    assert ask("dataset-profile", dataset="birds") == [
        ("birds", 100, True, "clip", 3, "gamma", 5.0, 8.0, "cats", 2.0, ["e1 clip n=100"])
    ]
    assert ask("dataset-profile", dataset="maps", metric="fid", similarity="kid") == [
        ("maps", None, None, "other", 0, None, None, None, None, None, [])
    ]


def test_unusually_bad_results(ask: Ask) -> None:
    # Medians of the models: 7.5, 7, 5; of the datasets: 8, 5, 4.5, 12.
    assert ask("unusually-bad") == [
        ("alpha", "maps", 30.0, 12.0, 1.5, 7.5, 3.0),
        ("beta", "maps", 12.0, 12.0, 0.0, 7.0, 0.7143),
        ("gamma", "maps", 10.0, 12.0, -0.1667, 5.0, 1.0),
    ]
    # As accuracy, 0.7 against medians of 0.88 and 0.925.
    assert ask("unusually-bad", metric="accuracy", threshold=0.2) == [
        ("alpha", "maps", 0.7, 0.88, 0.2045, 0.925, 0.2432)
    ]


def test_statistics_of_the_graph(ask: Ask) -> None:
    assert ask("graph-statistics") == [
        ("nodes", "Dataset", 4, None),
        ("nodes", "Model", 3, None),
        ("nodes", "Statistics", 1, None),
        ("edges", "DESCRIBED_BY", 1, None),
        ("edges", "PERFORMS", 11, None),
        ("edges", "SIMILAR", 6, None),
        ("results", "accuracy", 11, 0.9167),
        ("results", "clip_fid", 11, 0.9167),
        ("similarities", "clip_fid", 6, 1.0),
        ("similarities", "cosine_similarity", 6, 1.0),
    ]


def test_path_between_datasets_takes_stepping_stones(ask: Ask) -> None:
    # dogs-maps directly is 20, over birds 11, over cats 10.
    assert ask("dataset-path", **{"from": "dogs", "to": "maps"}) == [
        (0, "dogs", None, 0.0),
        (1, "cats", 1.0, 1.0),
        (2, "maps", 9.0, 10.0),
    ]
    # As distances from the largest, 0.95: cats-dogs 0, cats-maps 0.4, birds-maps 0.35, birds-cats 0.05.
    path = ask("dataset-path", similarity="cosine_similarity", **{"from": "dogs", "to": "maps"})
    assert path[-1][-1] == pytest.approx(0.4)


def test_path_to_a_dataset_without_similarities_is_empty(zoo: MatchingGraph, ask: Ask) -> None:
    zoo.save_datasets([Dataset("alone")])
    assert ask("dataset-path", **{"from": "dogs", "to": "alone"}) == []


def test_cheapest_good_enough(zoo: MatchingGraph, ask: Ask) -> None:
    zoo.save_models([Model("free")])
    zoo.save_results([Result("free", "birds", "clip_fid", 6)])
    assert ask("cheapest-good-enough", dataset="birds", tolerance=0.6) == [
        ("beta", 20.0, 8.0, 0.6),
        ("gamma", 100.0, 5.0, 0.0),
        ("free", None, 6.0, 0.2),
    ]
    assert ask("cheapest-good-enough", dataset="birds", metric="accuracy", tolerance=0.04) == [
        ("beta", 20.0, 0.92, 0.0316),
        ("gamma", 100.0, 0.95, 0.0),
    ]


@pytest.mark.parametrize("metric", ["clip_fid", "accuracy"])
def test_average_rank(ask: Ask, metric: str) -> None:
    assert ask("average-rank", metric=metric) == [
        ("gamma", 3, 1.3333, 2),
        ("beta", 4, 2.0, 1),
        ("alpha", 4, 2.25, 1),
    ]


def test_repeated_runs_are_those_that_differ_in_nothing_but_the_seed(
    zoo: MatchingGraph, runner: Runner, ask: Ask
):
    assert zoo  # the models and datasets
    save_runs(runner)
    assert ask("repeated-runs", dataset="birds") == [
        ("beta", 1, 2, None, 2, 2),
        ("alpha", 2, 4, 1.4142, 3, 5),
        ("beta", 1, 9, None, 9, 9),
    ]


def save_runs(runner: Runner) -> None:
    """Runs of alpha on birds under two seeds, of beta under two settings, and one that is not done."""
    rows = [
        {
            "model": model,
            "status": status,
            "clip_fid": value,
            # Under further seeds of a mean the pretrained model is not scored.
            "config": f'{{"initial": {"true" if seed == 1 else "false"}, "seed": {seed}, "steps": {steps}}}',
        }
        for model, status, value, seed, steps in (
            ("alpha", "DONE", 3, 1, 10),
            ("alpha", "DONE", 5, 22, 10),
            ("beta", "DONE", 2, 1, 10),
            ("beta", "DONE", 9, 1, 20),
            ("alpha", "FAILED", 99, 3, 10),
        )
    ]
    runner.write(
        "UNWIND range(0, size($rows) - 1) AS i MATCH (m:MatchGraphModel {id: $rows[i].model}), "
        "(d:MatchGraphDataset {id: 'birds'}) "
        "CREATE (m)<-[:OF]-(run:Run:MatchGraphRun {id: 'run' + i})-[:ON]->(d) "
        "SET run.status = $rows[i].status, run.clip_fid = $rows[i].clip_fid, run.config = $rows[i].config",
        rows=rows,
    )


def test_average_rank_shares_ties(zoo: MatchingGraph, ask: Ask) -> None:
    zoo.save_results([Result("beta", "cats", "clip_fid", 4), Result("gamma", "cats", "clip_fid", 4)])
    # All three are 1st to 3rd on cats, so 2 each, and each wins there.
    assert ask("average-rank") == [
        ("gamma", 3, 1.3333, 3),
        ("beta", 4, 1.75, 2),
        ("alpha", 4, 2.5, 1),
    ]


def test_gain_by_fine_tuning(ask: Ask) -> None:
    assert ask("fine-tuning-gain") == [
        ("gamma", "birds", 4.0, 5.0, -1.0),
        ("alpha", "birds", 20.0, 10.0, 10.0),
    ]
    assert ask("fine-tuning-gain", metric="accuracy") == [("alpha", "birds", 0.8, 0.9, 0.1)]


def test_two_models_side_by_side(zoo: MatchingGraph, ask: Ask) -> None:
    zoo.save_results([Result("beta", "maps", "clip_fid", 30)])
    assert ask("compare-models", model="alpha", other="beta") == [
        ("birds", 10.0, 8.0, "beta"),
        ("cats", 4.0, 6.0, "alpha"),
        ("dogs", 5.0, 4.0, "beta"),
        ("maps", 30.0, 30.0, None),
    ]


def test_edges_of_a_band_are_paths(ask: Ask) -> None:
    # The quartiles of the six distances 1, 2, 3, 8, 9, 20 are 2.25, 5.5 and 8.75.
    rows = ask("edges-of-band", type="SIMILAR")
    ends = [[node["properties"]["id"] for node in path["nodes"]] for (path,) in rows]
    assert ends == [["cats", "dogs"], ["birds", "cats"]]
    assert len(ask("edges-of-band", band="poor", type="SIMILAR")) == 2
    best = ask("edges-of-band", metric="accuracy", type="PERFORMS", limit=1)[0][0]
    assert [node["properties"]["id"] for node in best["nodes"]] == ["alpha", "cats"]


@pytest.mark.slow
def test_every_query_reads_only_and_runs_with_its_defaults(ask: Ask, runner: Runner) -> None:
    prompts = PromptGraph(runner)
    prompts.save_variants(
        [Variant(f"alpha@{steps}", "alpha", Drawing(steps), float(steps)) for steps in (1, 9)]
    )
    prompt = Prompt("a bird", "train", "clip", np.array([1.0]))
    prompts.save_prompts([prompt])
    prompts.save_scores(
        [Score(f"alpha@{steps}", prompt.id, "clip_score", steps / 10, 4, 0.1, "clip") for steps in (1, 9)]
    )
    DistillationGraph(runner).save(Distilled("alpha", "beta"))
    save_runs(runner)
    named = {"dataset": "birds", "model": "alpha", "from": "birds", "to": "cats", "other": "beta"}
    for info in queries.catalogue():
        given = {p.name: named[p.name] for p in info.parameters if p.required}
        assert ask(info.name, **given), info.name


def test_a_metric_of_ones_own_has_its_direction_respected(zoo: MatchingGraph, ask: Ask) -> None:
    zoo.save_metric(Metric("stars", larger_is_better=True))
    zoo.save_results([Result("alpha", "birds", "stars", 2), Result("beta", "birds", "stars", 5)])
    assert [row[1] for row in ask("best-models", dataset="birds", metric="stars")] == [
        "beta",
        "alpha",
    ]


def test_a_name_that_is_not_there_is_no_empty_answer(ask: Ask) -> None:
    with pytest.raises(NodeNotFound, match=r"no dataset 'bird' in the graph \(did you mean 'birds'\?\)"):
        ask("best-models", dataset="bird")
    with pytest.raises(NodeNotFound, match="no model 'omega'"):
        ask("model-profile", model="omega")
    with pytest.raises(UnknownMetric, match=r"'clip_fd' is not a known metric \(did you mean 'clip_fid'\?\)"):
        ask("best-models", dataset="birds", metric="clip_fd")
    with pytest.raises(ParameterInvalid, match="needs a dataset"):
        ask("best-models")
    with pytest.raises(ParameterInvalid, match=r"no parameter 'datset' \(did you mean 'dataset'\?\)"):
        ask("best-models", datset="birds")
