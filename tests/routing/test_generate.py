"""Prompts are drawn by the candidates they were routed to, each model loaded once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from matchgraph.drawing import Drawing
from matchgraph.graphdb.prompt_models import Variant, prompt_id
from matchgraph.progress import Work
from matchgraph.routing.generate import draw
from tests.routing.drawing import Pipelines

VARIANTS = (
    Variant("a@1", "a", Drawing(1), 1.0),
    Variant("a@4", "a", Drawing(4), 4.0),
    Variant("b@9", "b", Drawing(9, 2.0), 9.0),
)


def test_each_image_has_its_prompt_and_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines = Pipelines(monkeypatch)
    prompts = ["zero", "one", "two", "three"]
    decisions = [SimpleNamespace(variant=name) for name in ("b@9", "a@4", "a@1", "b@9")]
    folders = {"a": Path("A"), "b": Path("B")}
    out = tmp_path / "new" / "folder"
    said: list[Work] = []
    found = list(draw(prompts, decisions, VARIANTS, folders, out, seed=3, on_work=said.append))
    # The pace is known after the second of three batches.
    assert (said[0], [(own.images, own.seconds is None) for own in said[1:]]) == (
        Work(4, 23.0),
        [(4, False)],
    )
    assert pipelines.opened == [Path("B"), Path("A")]
    assert {(each.prompt, each.variant, each.cost) for each in found} == {
        ("zero", "b@9", 9.0),
        ("one", "a@4", 4.0),
        ("two", "a@1", 1.0),
        ("three", "b@9", 9.0),
    }
    for each in found:
        assert each.path.name == f"{prompts.index(each.prompt):04d}-{prompt_id(each.prompt)}.png"
        assert each.path.exists()
    assert [call["prompts"] for call in pipelines.calls] == [["zero", "three"], ["one"], ["two"]]
    for call in pipelines.calls:
        assert call["numbers"] == [f"{prompt_id(text)}-0" for text in call["prompts"]]
        assert call["config"].seed == 3
    assert pipelines.calls[0]["config"].drawing == Drawing(9, 2.0)


def test_a_model_is_opened_in_the_precision_of_its_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipelines = Pipelines(monkeypatch)
    half = Variant("a@4-bf16", "a", Drawing(4, precision="bf16"), 4.0)
    decisions = [SimpleNamespace(variant=name) for name in ("a@4", "a@4-bf16", "a@1")]
    list(draw(["zero", "one", "two"], decisions, [*VARIANTS, half], {"a": Path("A")}, tmp_path, seed=0))
    assert pipelines.precisions == ["fp32", "bf16"]
    assert [call["config"].drawing.precision for call in pipelines.calls] == ["fp32", "fp32", "bf16"]
