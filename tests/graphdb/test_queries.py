"""Named statements as files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from matchgraph.graphdb import queries
from matchgraph.graphdb.errors import ParameterInvalid, QueryNotFound

FOLDER = Path(__file__).parents[2] / "cypher"
FILES = sorted(FOLDER.rglob("*.cypher"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_file_holds_one_commented_statement(file: Path) -> None:
    text = queries.load(f"{file.parent.name}/{file.stem}")
    assert text == file.read_text(encoding="utf-8")
    assert text.startswith("// ")
    assert ";" not in "\n".join(line for line in text.splitlines() if not line.startswith("//"))


@pytest.mark.parametrize("name", queries.names("explore"))
def test_a_query_uses_the_parameters_it_declares_and_no_others(name: str) -> None:
    info = queries.describe(name)
    statement = "\n".join(
        line for line in queries.load(f"explore/{name}").splitlines() if not line.startswith("//")
    )
    assert {p.name for p in info.parameters} == set(re.findall(r"\$([a-z_]+)", statement))
    assert info.title
    assert not info.title.endswith(".")


def test_parameters_are_parsed() -> None:
    info = queries.describe("cheapest-good-enough")
    assert [(p.name, p.type, p.default, p.required) for p in info.parameters] == [
        ("dataset", "dataset", None, True),
        ("tolerance", "float", 0.1, False),
        ("cost", "string", "tflop", False),
        ("metric", "metric", "clip_fid", False),
    ]
    assert info.arguments({"dataset": "d", "tolerance": 0.5}) == {
        "dataset": "d",
        "tolerance": 0.5,
        "cost": "tflop",
        "metric": "clip_fid",
    }
    with pytest.raises(ParameterInvalid, match="tolerance is 'much'"):
        info.parameters[1].parse("much")


@pytest.mark.parametrize(
    "name", ["explore/../read/models", "../secret", "best-models", "explore/", "", "read/x;y"]
)
def test_only_a_plain_name_is_looked_up(name: str) -> None:
    with pytest.raises(QueryNotFound):
        queries.load(name)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(QueryNotFound, match=r"no query 'best-modles' \(did you mean 'best-models'\?\)"):
        queries.load("explore/best-modles")
