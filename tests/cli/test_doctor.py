"""`matchgraph doctor`: it names what is wrong and what to do, and starts nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from matchgraph.cli import doctor
from matchgraph.cli.main import matchgraph
from matchgraph.graphdb.connection import Settings
from matchgraph.minizoo import ROOT


def findings(*arguments: str, environment: Mapping[str, str]) -> tuple[int, dict[str, dict[str, str]]]:
    result = CliRunner().invoke(matchgraph, ["doctor", "--json", *arguments], env=dict(environment))
    return result.exit_code, {one["name"]: one for one in json.loads(result.stdout)}


def test_a_machine_without_a_server_or_probe_has_notes_and_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MATCHGRAPH_NEO4J_URI", raising=False)
    code, found = findings(environment={"MATCHGRAPH_HOME": str(tmp_path / "home"), "MATCHGRAPH_PROBE": ""})
    assert code == 0
    assert "21" in found["Java"]["found"]
    assert found["Neo4j"]["state"] == found["Probe"]["state"] == "note"
    assert "graph start" in found["Neo4j"]["advice"]
    assert not (tmp_path / "home").exists()


def test_a_problem_has_advice_and_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "CHECKS", ())
    code, found = findings("--probe", str(tmp_path), environment={})
    assert (code, found["Probe"]["state"]) == (1, "problem")
    assert "open_clip_config.json" in found["Probe"]["found"]
    assert findings("--probe", "./nowhere", environment={})[0] == 1
    assert findings("--probe", "ViT-B-32/laion2b", environment={})[1]["Probe"]["state"] == "note"
    assert findings("--probe", str(ROOT / "probes/clip"), environment={})[0] == 0


def test_a_full_disk_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "LEAST_FREE_GIB", 10**9)
    assert doctor.disk(Settings(home=tmp_path / "a" / "b")).state == "problem"
