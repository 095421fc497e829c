"""What routing is worth, where it is known what it is worth; and its page."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click import ClickException

from bench.routing import BEGIN, END, with_tables
from matchgraph.graphdb.prompt_models import ScoreTable, Variant
from matchgraph.report.routing import TITLES, write_report
from matchgraph.routing import evaluation
from matchgraph.routing.chances import Reliability
from matchgraph.routing.errors import NotEnoughScores
from matchgraph.routing.evaluation import evaluate, typical_words
from matchgraph.routing.robustness import Rewording, World
from matchgraph.routing.turns import complete, rotated
from matchgraph.stats.intervals import Interval
from matchgraph.training.measure.prompts import EncodedPrompts

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compare", "standing"):
        monkeypatch.setattr(evaluation, name, partial(getattr(evaluation, name), resamples=200))
    monkeypatch.setattr(evaluation, "another_world", lambda *_, **__: None)


def test_what_there_is_to_gain_is_gained(scored: tuple[ScoreTable, EncodedPrompts]) -> None:
    table, encoded = scored
    study = evaluate(table, encoded, folds=1)
    assert len(study.prompts) == 40
    assert list(study.comparisons) == ["chosen", "knn", "gaussian", "network"]
    for name, comparison in study.comparisons.items():
        # Half of the prompts gain most from the second candidate, half from the third.
        assert comparison.over_mixing.low > 0
        assert comparison.over_candidate[2].low > 0
        assert study.curves[name].quality.max() < study.curves["oracle"].quality.max()
        assert study.shares(name, [100.0, 0.0])[0].tolist() == [1, 0, 0]
        assert study.shares(name, [0.0])[0, 2] == pytest.approx(0.5, abs=0.2)


def test_the_validation_prompts_choose_the_router_and_the_best_single_candidate(
    scored: tuple[ScoreTable, EncodedPrompts],
) -> None:
    table, encoded = scored
    without = replace(encoded, tokens=None, mask=None)
    study = evaluate(table, without, folds=1)
    [chosen] = study.chosen
    assert np.array_equal(study.estimates["chosen"], study.estimates[chosen])
    assert study.decision_ms.keys() == {"knn", "gaussian"}
    rows = {name: table.rows(name) for name in ("train", "validation", "test")}
    assert study.singles == (table.variants[int(table.mean[rows["train"]].mean(axis=0).argmax())].id,)
    # Whatever the test scores are, the same router and candidate were chosen.
    mean = table.mean.copy()
    mean[rows["test"]] = -mean[rows["test"]]
    other = evaluate(replace(table, mean=mean), without, folds=1)
    assert (other.chosen, other.singles) == (study.chosen, study.singles)
    # Chances are those of the scores, and wrong of scores that are turned round.
    for name in ("best", "enough"):
        own, turned = getattr(study, name), getattr(other, name)
        assert own.over_share.low > 0
        assert own.error.value < 0.2 < turned.error.value


@pytest.mark.slow
def test_every_prompt_is_a_test_prompt_once(scored: tuple[ScoreTable, EncodedPrompts]) -> None:
    table, encoded = scored
    turns = [rotated(table, turn, 4, seed=1) for turn in range(4)]
    assert sorted(np.concatenate([own.rows("test") for own in turns])) == list(range(400))
    for own, following in zip(turns, turns[1:] + turns[:1], strict=True):
        assert (own.rows("validation") == following.rows("test")).all()
        assert [len(own.rows(name)) for name in ("train", "validation", "test")] == [200, 100, 100]
    study = evaluate(table, encoded, folds=3)
    assert sorted(study.prompts) == sorted(prompt.text for prompt in table.prompts)
    assert len(study.neighbours) == len(study.processes) == 3
    order = [study.prompts.index(prompt.text) for prompt in table.prompts]
    assert (study.truth[order] == table.mean).all()
    # More prompts, narrower intervals.
    few = evaluate(table, encoded, folds=1).comparisons["gaussian"].area
    many = study.comparisons["gaussian"].area
    assert many.high - many.low < 0.5 * (few.high - few.low)


@pytest.mark.slow
def test_estimates_without_knowledge_gain_nothing(scored: tuple[ScoreTable, EncodedPrompts]) -> None:
    table, encoded = scored
    # Prompts that have nothing to do with their scores; without tokens there is no network.
    shuffled = encoded.part(np.random.default_rng(3).permutation(len(encoded)))
    study = evaluate(table, replace(shuffled, tokens=None, mask=None), folds=3)
    assert list(study.comparisons) == ["chosen", "knn", "gaussian"]
    for comparison in study.comparisons.values():
        assert comparison.over_mixing.low < 0.02


def test_only_prompts_scored_for_every_candidate_are_compared(
    scored: tuple[ScoreTable, EncodedPrompts],
) -> None:
    table, _ = scored
    mean = table.mean.copy()
    mean[table.rows("train")[0], 1] = np.nan
    assert len(complete(replace(table, mean=mean)).prompts) == 399
    # A candidate that nothing is scored of is none; one alone is nothing to route to.
    unscored = table.mean.copy()
    unscored[:, 0] = np.nan
    assert [variant.id for variant in complete(replace(table, mean=unscored)).variants] == ["m-4", "m-20"]
    unscored[:, 1] = np.nan
    with pytest.raises(NotEnoughScores, match="Only m-20 is scored by clip_score: score another one"):
        complete(replace(table, mean=unscored))
    same = tuple(replace(variant, cost=1.0) for variant in table.variants)
    with pytest.raises(NotEnoughScores, match="cost the same"):
        complete(replace(table, variants=same))


def test_a_gap_in_the_scores_is_named(scored: tuple[ScoreTable, EncodedPrompts]) -> None:
    table, _ = scored
    mean = table.mean.copy()
    rows = table.rows("test")
    mean[rows[:-2], 1] = mean[rows[-2:], 2] = np.nan
    gap = f"No test prompt is scored by clip_score for every candidate: m-4 is on 2 of {len(rows)}."
    with pytest.raises(NotEnoughScores, match=gap) as caught:
        complete(replace(table, mean=mean))
    assert "remove model" not in str(caught.value)
    given = tuple(Variant(own.id, own.id, None, own.cost) for own in table.variants)
    with pytest.raises(NotEnoughScores, match="go without it: `matchgraph graph remove model m-4`"):
        complete(replace(table, mean=mean, variants=given))
    spaced = tuple(replace(own, model=f"my {own.id}") for own in given)
    with pytest.raises(NotEnoughScores, match="`matchgraph graph remove model 'my m-4'`"):
        complete(replace(table, mean=mean, variants=spaced))
    early = replace(table, prompts=tuple(replace(prompt, split="train") for prompt in table.prompts))
    with pytest.raises(
        NotEnoughScores, match="No validation prompt is scored by clip_score: add scores of more"
    ):
        complete(early)


def test_fewer_prompts_than_turns_are_too_few(scored: tuple[ScoreTable, EncodedPrompts]) -> None:
    table, encoded = scored
    few = replace(table, prompts=table.prompts[:8], mean=table.mean[:8])
    with pytest.raises(
        NotEnoughScores, match=r"8 prompts with scores of all candidates are too few .* at least 10"
    ):
        evaluate(few, encoded.part(np.arange(8)))


def test_typical_words_are_those_that_go_together() -> None:
    prompts = [f"a red cat {number}" for number in range(20)] + [
        f"a blue dog {number}" for number in range(20)
    ]
    found = typical_words(prompts, ["m@1"] * 19 + ["m@9"] * 21)
    assert found["m@1"] == ["cat", "red"]
    assert found["m@9"] == ["blue", "dog"]


def test_the_page_holds_every_figure_and_loads_nothing(
    scored: tuple[ScoreTable, EncodedPrompts], tmp_path: Path
) -> None:
    table, encoded = scored
    renamed = replace(table, variants=tuple(replace(v, id=f"<b>{v.id}</b>") for v in table.variants))
    study = evaluate(renamed, replace(encoded, tokens=None, mask=None), folds=1)
    share, change = Interval(0.75, 0.5, 1.0, 4), Interval(-0.25, -0.5, 0.125, 4)
    study = replace(
        study,
        rewordings={"by rule": Rewording(40, share, change)},
        world=World(3, share, change, study.standings["knn"]),
        best=Reliability(share, change),
        enough=Reliability(share, Interval(0.25, 0.125, 0.5, 4)),
    )
    page, summary = write_report([study], tmp_path / "out", "matchgraph route curve", {"seed": 0})
    text = page.read_text(encoding="utf-8")
    assert "<b>" not in text
    assert text.count("<svg") == 2
    assert "src=" not in text
    assert summary[0].split(":")[0] == "clip_score"
    assert f"the router that the validation prompts chose ({TITLES[study.chosen[0]]})" in summary[0]
    assert "75 % [50, 100] of the prompts keep their candidate" in text
    assert "is not clearly different from that of fixed shares (-0.2500 [-0.5000, +0.1250] saved)" in text
    assert "of the second, below that of fixed shares (+0.2500 [+0.1250, +0.5000] saved)" in text
    assert "With one of 3 topics held out at a time, the router is -0.2500 [-0.5000, +0.1250]" in text
    content = json.loads((tmp_path / "out" / "routing.json").read_text(encoding="utf-8"))
    area = content["studies"]["clip_score"]["routers"]["knn"]["area"]
    assert area["low"] < area["value"] < area["high"]
    assert {path.name for path in (tmp_path / "out").glob("*.csv")} == {
        "clip_score-areas.csv",
        "clip_score-chances.csv",
        "clip_score-standing.csv",
        "clip_score-robustness.csv",
        "clip_score-equal.csv",
    }


def test_the_tables_of_the_evidence_page_are_replaced_and_nothing_else() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert with_tables(page, "new") == f"before\n{BEGIN}\nnew\n\n{END}\nafter\n"
    for broken in (page.replace(BEGIN, ""), page.replace(END, "")):
        with pytest.raises(ClickException, match="The page has no"):
            with_tables(broken, "new")
    assert BEGIN in (ROOT / "docs" / "evidence" / "routing.md").read_text(encoding="utf-8")
