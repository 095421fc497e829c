"""The prompt level of the graph: what is written comes back, and the vector index finds the nearest."""

from __future__ import annotations

import numpy as np
import pytest

from matchgraph.drawing import Drawing
from matchgraph.graphdb import prompts as module
from matchgraph.graphdb.errors import InvalidValue, MixedExtractors, NodeNotFound
from matchgraph.graphdb.explore import explore
from matchgraph.graphdb.models import Model
from matchgraph.graphdb.prompt_models import MAX_PROMPT_CHARACTERS, Prompt, Score, Variant, check_prompt
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner

VARIANTS = (
    Variant("m@1", "m", Drawing(1), 0.5),
    Variant("m@20-DDIM", "m", Drawing(20, 7.5, "DDIMScheduler", 256), 10.0),
)


def prompts_at(points: np.ndarray, splits: str = "", probe: str = "probe") -> list[Prompt]:
    """Prompts named by their number; of `splits` the letters t, v and x stand for train, validation, test."""
    named = {"t": "train", "v": "validation", "x": "test"}
    points = points / np.linalg.norm(points, axis=1, keepdims=True)
    letters = splits or "t" * len(points)
    return [
        Prompt(f"prompt {number}", named[letter], probe, point)
        for number, (point, letter) in enumerate(zip(points, letters, strict=True))
    ]


@pytest.fixture
def prompt_graph(graph: MatchingGraph, runner: Runner) -> PromptGraph:
    graph.save_models([Model("m"), Model("other")])
    own = PromptGraph(runner)
    own.save_variants(VARIANTS)
    return own


def score(variant: str, prompt: Prompt, value: float, *, samples: int = 4, scorer: str = "s1") -> Score:
    return Score(variant, prompt.id, "clip_score", value, samples, 0.1, scorer)


def test_prompts_variants_and_scores_come_back_as_they_were(prompt_graph: PromptGraph) -> None:
    prompts = prompts_at(np.eye(3) + 0.1, "tvx")
    prompt_graph.save_prompts(prompts)
    prompt_graph.save_scores([score("m@1", prompts[0], 0.25), score("m@20-DDIM", prompts[2], 0.5)])
    assert prompt_graph.variants() == list(VARIANTS)
    found = {prompt.text: prompt for prompt in prompt_graph.prompts()}
    for prompt in prompts:
        assert (found[prompt.text].split, found[prompt.text].probe) == (prompt.split, "probe")
        assert (found[prompt.text].embedding == prompt.embedding).all()
    table = prompt_graph.table("clip_score")
    row = {prompt.text: number for number, prompt in enumerate(table.prompts)}
    assert table.mean[row["prompt 0"]] == pytest.approx([0.25, np.nan], nan_ok=True)
    assert table.mean[row["prompt 2"]] == pytest.approx([np.nan, 0.5], nan_ok=True)
    assert table.samples.sum() == 8
    assert np.nansum(table.std) == pytest.approx(0.2)
    assert prompt_graph.metrics() == {"clip_score": 2}
    assert np.isnan(prompt_graph.table("sharpness").mean).all()


def test_a_score_by_another_scorer_replaces_the_first_and_mixtures_are_refused(
    prompt_graph: PromptGraph,
) -> None:
    prompts = prompts_at(np.eye(2))
    prompt_graph.save_prompts(prompts)
    prompt_graph.save_scores([score("m@1", prompt, 0.1) for prompt in prompts])
    prompt_graph.save_scores([score("m@1", prompts[0], 0.9, scorer="s2")])
    with pytest.raises(MixedExtractors, match="different scorers"):
        prompt_graph.table("clip_score")
    assert prompt_graph.scored("m@1", "clip_score", "s2", 4) == {prompts[0].id}
    assert prompt_graph.scored("m@1", "clip_score", "s2", 5) == set()
    # A single image has no deviation, and none is left of the four before.
    one = Score("m@1", prompts[0].id, "clip_score", 0.9, 1, None, "s2")
    sharp = Score("m@1", prompts[0].id, "sharpness", 0.5, 4, 0.25, "s3")
    prompt_graph.save_scores([score("m@1", prompts[0], 0.8, scorer="s2"), sharp, one])
    assert one in prompt_graph.scores("clip_score")
    prompt_graph.save_scores([score("m@1", prompts[0], 0.9, scorer="s2")])
    assert prompt_graph.scores("sharpness") == [sharp]
    prompt_graph.save_scores([score("m@1", prompts[1], 0.9, scorer="s2")])
    assert np.nanmin(prompt_graph.table("clip_score").mean) == 0.9


def test_scores_of_several_batches_transactions_and_kinds_are_all_saved(
    prompt_graph: PromptGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_ROWS", 2)
    monkeypatch.setattr(module, "TRANSACTION_ROWS", 3)
    prompts = prompts_at(np.eye(7) + 0.1)
    prompt_graph.save_prompts(prompts)
    wanted = [score("m@1", prompt, number) for number, prompt in enumerate(prompts)]
    wanted += [score("m@20-DDIM", prompt, 0.5, samples=number + 1) for number, prompt in enumerate(prompts)]
    sharp = [Score("m@1", prompt.id, "sharpness", 1.0, 2, None, "s3") for prompt in prompts[3:]]
    prompt_graph.save_scores([*wanted, *sharp])
    assert set(prompt_graph.scores("clip_score")) == set(wanted)
    assert set(prompt_graph.scores("sharpness")) == set(sharp)
    assert len(prompt_graph.prompts()) == 7


def test_only_prompts_to_learn_from_are_neighbours(prompt_graph: PromptGraph, runner: Runner) -> None:
    generator = np.random.default_rng(0)
    points = generator.normal(size=(200, 16))
    prompts = prompts_at(points, "t" * 150 + "v" * 25 + "x" * 25)
    prompt_graph.save_prompts(prompts)
    prompt_graph.save_scores([score("m@1", prompt, number) for number, prompt in enumerate(prompts)])
    runner.read("CALL db.awaitIndexes(30)")
    for query in (prompts[7], prompts[160]):
        cosines = np.array([prompt.embedding @ query.embedding for prompt in prompts[:150]])
        expected = np.argsort(-cosines)[:10]
        found = prompt_graph.nearest(query.embedding, 10, "clip_score")
        assert [neighbour.text for neighbour in found] == [prompts[number].text for number in expected]
        assert [neighbour.cosine for neighbour in found] == pytest.approx(cosines[expected], abs=1e-5)
        assert [neighbour.scores for neighbour in found] == [{"m@1": number} for number in expected]
    # A prompt that is held out from now on is no neighbour any more.
    prompt_graph.save_prompts([Prompt(prompts[7].text, "test", "probe", prompts[7].embedding)])
    assert prompts[7].text not in [
        n.text for n in prompt_graph.nearest(prompts[7].embedding, 150, "clip_score")
    ]


def test_a_variant_moves_to_another_model_as_a_whole(prompt_graph: PromptGraph, runner: Runner) -> None:
    prompt_graph.save_variants([Variant("m@1", "other", Drawing(2), 1.0)])
    assert prompt_graph.variants()[0] == Variant("m@1", "other", Drawing(2), 1.0)
    assert runner.read("MATCH (:Variant {id: 'm@1'})-[e:OF]->() RETURN count(e) AS n") == [{"n": 1}]


def test_scores_do_not_pass_to_another_drawing(prompt_graph: PromptGraph) -> None:
    """An id leaves the resolution out, and is all that `graph.scored` asks for."""
    larger = Variant("m@1", "m", Drawing(1, resolution_px=1024), 2.0)
    prompt_graph.save_variants([larger])
    prompts = prompts_at(np.eye(2))
    prompt_graph.save_prompts(prompts)
    prompt_graph.save_scores([score("m@1", prompts[0], 0.25)])
    said = "m@1 has scores of images with resolution_px 1024, not 512: give `--resolution 1024`, or remove"
    with pytest.raises(InvalidValue, match=said):
        prompt_graph.save_variants([Variant("m@2", "m", Drawing(2), 1.0), VARIANTS[0]])
    assert larger in prompt_graph.variants()
    assert "m@2" not in {variant.id for variant in prompt_graph.variants()}
    with pytest.raises(InvalidValue, match="with model m, not other"):
        prompt_graph.save_variants([Variant("m@1", "other", larger.drawing, 2.0)])
    # It may be priced again.
    prompt_graph.save_variants([Variant("m@1", "m", larger.drawing, 3.0)])


def test_what_does_not_fit_is_refused_and_nothing_is_written(prompt_graph: PromptGraph) -> None:
    prompts = prompts_at(np.eye(2))
    prompt_graph.save_prompts(prompts)
    with pytest.raises(MixedExtractors, match="different probes"):
        prompt_graph.save_prompts(prompts_at(np.eye(3), probe="another"))
    with pytest.raises(NodeNotFound, match="no model 'gone'"):
        prompt_graph.save_variants([Variant("g@1", "gone", Drawing(1), 1.0)])
    with pytest.raises(NodeNotFound, match="no variant 'm@9'"):
        prompt_graph.save_scores([score("m@1", prompts[0], 0.1), score("m@9", prompts[0], 0.1)])
    stray = Prompt("not saved", "train", "probe", np.eye(2)[0])
    with pytest.raises(NodeNotFound, match="no prompt"):
        prompt_graph.save_scores([score("m@1", prompts[0], 0.1), score("m@1", stray, 0.1)])
    assert len(prompt_graph.prompts()) == 2
    assert prompt_graph.metrics() == {}


@pytest.mark.parametrize(
    "text",
    ["", " \t\n", "a\x00b", "\x1b[31m", "a\ud800", "x" * (MAX_PROMPT_CHARACTERS + 1), None, 7, b"bytes"],
    ids=repr,
)
def test_what_is_no_prompt_is_refused(text: object) -> None:
    with pytest.raises(InvalidValue, match="prompt"):
        check_prompt(text)


def test_any_other_text_is_a_prompt() -> None:
    for text in ("a", "x" * MAX_PROMPT_CHARACTERS, "Ein Bär\n\tmit Hut", "\u732b \U0001f408", "' OR 1=1 //"):
        assert check_prompt(text) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drawing": Drawing()}, "number of steps"),
        ({"cost": 0.0}, "must be above 0"),
        ({"cost": float("nan")}, "cost"),
        ({"unit": "EUR"}, "one of TFLOP, s, USD"),
    ],
)
def test_variants_have_sound_numbers(change: dict, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        Variant(**{"id": "v", "model": "m", "drawing": Drawing(1), "cost": 1.0, **change})


@pytest.mark.parametrize("embedding", [[], [[1.0]], [0.5, 0.5], [float("nan"), 1.0]])
def test_embeddings_are_vectors_of_length_one(embedding: list) -> None:
    with pytest.raises(InvalidValue, match="embedding"):
        Prompt("a", "train", "probe", np.array(embedding))


def test_what_candidates_do_is_explored(prompt_graph: PromptGraph, runner: Runner) -> None:
    prompts = prompts_at(np.eye(4))
    prompt_graph.save_prompts(prompts)
    prompt_graph.save_scores([score("m@1", prompt, 0.1 * number) for number, prompt in enumerate(prompts)])
    # Better on the first, as good on the second, worse on the third, and not scored on the fourth.
    prompt_graph.save_scores(
        [score("m@20-DDIM", prompt, value) for prompt, value in zip(prompts, (0.7, 0.1, 0.1), strict=False)]
    )
    _, rows = explore(runner, "candidates", {})
    found = [(row["candidate"], row["steps"], round(row["mean"], 3), row["prompts"]) for row in rows]
    assert found == [("m@1", 1, 0.15, 4), ("m@20-DDIM", 20, 0.3, 3)]
    assert [row["best_share"] for row in rows] == [pytest.approx(2 / 3), pytest.approx(2 / 3)]
    _, rows = explore(runner, "worth-more", {"quality": "clip_score"})
    assert [tuple(row.values()) for row in rows] == [
        ("prompt 0", "m@20-DDIM", pytest.approx(0.7), pytest.approx(20))
    ]
