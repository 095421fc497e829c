"""The driver: an order that builds on itself, and going on where it stopped."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from matchgraph.minizoo.build import driver
from matchgraph.minizoo.build.driver import Stage, run, stages
from matchgraph.minizoo.build.zoo import ZOO


def test_every_part_is_trained_to_its_end_after_all_that_it_builds_on() -> None:
    names = [stage.name for stage in stages()]
    assert len(set(names)) == len(names)
    place = {name: number for number, name in enumerate(names)}
    for model in ZOO.values():
        rounds = [name for name in names if name.rsplit("-", 1)[0] == model.name]
        shares = [float(name.rsplit("-", 1)[1]) for name in rounds]
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
        tower = {"kolors": "glm", "pixart": "t5", "flux": "t5", "sana": "gemma"}.get(model.family, "clip")
        first = place[rounds[0]]
        assert place[f"autoencoders-{model.autoencoder}"] < first
        assert place["towers-clip"] <= place[f"towers-{tower}"] < first
        assert all(place[f"{name}-1.0"] < first for name in model.needs)


def test_a_stage_that_is_done_is_not_run_again_and_one_that_failed_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "WORK", tmp_path)
    # `python -m timeit CODE` stands for a stage's module.
    written = tmp_path / "runs"
    once = ("-n", "1", "-r", "1")

    def stage(name: str, code: str) -> Stage:
        return Stage(name, "timeit", (*once, code))

    count = f"open({str(written)!r}, 'a').write('x')"
    order = [stage("first", count), stage("second", "raise SystemExit(3)"), stage("third", count)]
    with pytest.raises(subprocess.CalledProcessError):
        run(order, tmp_path / "done")
    assert written.read_text() == "x"
    order[1] = stage("second", count)
    run(order, tmp_path / "done")
    assert written.read_text() == "xxx"
    run(order, tmp_path / "done")
    assert written.read_text() == "xxx"
    assert (tmp_path / "second.log").is_file()
