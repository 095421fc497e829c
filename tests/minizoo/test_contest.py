"""Who is fine-tuned to see whether a prediction was right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from matchgraph.minizoo.build.contest import contestants, recorded_guidance


def test_the_first_choice_meets_the_best_on_average() -> None:
    prediction = {"ranking": [{"model": "b"}, {"model": "a"}]}
    assert contestants(prediction, [{"model": "a"}, {"model": "b"}]) == ["b", "a"]
    assert contestants(prediction, [{"model": "b"}, {"model": "a"}]) == ["b"]


def test_a_model_is_sampled_as_it_was_measured(tmp_path: Path) -> None:
    runs = tmp_path / "runs.csv"
    cells = ['"' + json.dumps({"guidance": scale}).replace('"', '""') + '"' for scale in (2.0, 3.5)]
    runs.write_text(f"model,config\na,{cells[0]}\nb,{cells[1]}\n")
    assert recorded_guidance("a", runs) == 2.0
    assert recorded_guidance("b", runs) == 3.5
    with pytest.raises(LookupError, match="no run of c"):
        recorded_guidance("c", runs)
