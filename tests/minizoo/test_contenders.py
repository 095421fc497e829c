"""Which pairs are measured under more seeds."""

from __future__ import annotations

from pathlib import Path

from matchgraph.minizoo.build.contenders import contenders, write


def row(model: str, dataset: str, value: float, metric: str = "clip_fid", stage: str = "finetuned") -> dict:
    return {"model": model, "dataset": dataset, "metric": metric, "stage": stage, "value": str(value)}


def test_contenders_are_close_to_the_best_of_their_dataset(tmp_path: Path) -> None:
    rows = [row("a", "x", 10), row("b", "x", 12), row("c", "x", 12.1), row("c", "y", 30), row("a", "y", 20)]
    rows += [row("d", "x", 1, stage="initial"), row("d", "x", 1, metric="kid")]
    assert contenders(rows) == [("a", "x"), ("a", "y"), ("b", "x")]
    write(contenders(rows), {"a"}, tmp_path / "pairs.csv")
    assert (tmp_path / "pairs.csv").read_text().splitlines() == ["model,dataset", "a,x", "a,y"]
