"""Words and tables about runs, as a terminal or a file gets them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live

from matchgraph.cli import display
from matchgraph.cli.display import JointDisplay, progress_words, runs_table, status_line
from matchgraph.cli.run_output import show_proposal
from matchgraph.graphdb.models import Model
from matchgraph.ingest.runs.entries import Pace, Run, RunProgress
from matchgraph.ingest.runs.status import RunsStatus
from matchgraph.predictor.active import Proposal
from matchgraph.words import duration
from tests.ingest.test_estimates import run

MODELS = {"[red]m[/red]": Model("[red]m[/red]", {})}
PACE = Pace(began=0, first=0, heard=10_000, now=10_000)


def running(**changes: object):
    halfway = run("[red]m[/red]", "RUNNING", progress=RunProgress("fine-tuning", 50, 100, 0.125), pace=PACE)
    return replace(halfway, config={**halfway.config, "metrics": ["clip_fid"]}, **changes)


def done():
    finished = run("[red]m[/red]")
    return replace(
        finished,
        id="1" * 16,
        config={**finished.config, "metrics": ["clip_fid"]},
        properties={**finished.properties, "clip_fid": 5.0, "initial_clip_fid": 7.0},
    )


def status(*runs: Run, measured: list[Run] | None = None) -> RunsStatus:
    return RunsStatus.of(runs, MODELS, measured=measured)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "?"), (0.4, "0 s"), (119, "119 s"), (120, "2 min"), (5400, "1.5 h"), (3 * 86400, "3.0 days")],
)
def test_times_are_told_in_their_own_unit(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


def test_a_line_tells_what_matters_of_each_status() -> None:
    now = status(running(), measured=[done()])
    line = status_line(running(), now.seconds_left[running().id])
    # 50 steps at 0.2 s, and then the sampling as before.
    assert "fine-tuning 50/100, loss 0.125  40 s left" in line
    assert "worker lost" in status_line(running(expired=True), 5.0)
    assert "clip_fid 7 -> 5, 60 s training" in status_line(done(), None)
    # A worker that was stopped gives its attempt back, and the run goes on where it was.
    queued = running(status="QUEUED", attempt=0)
    line = "m[/red] x d  interrupted at fine-tuning 50/100, loss 0.125"
    assert status_line(queued, None).endswith(line)
    assert status_line(queued, None, resumes=True).endswith(f"{line}; resumes from its checkpoint")
    # It was only being loaded.
    assert "interrupted" not in status_line(replace(queued, progress=RunProgress("claimed")), None)
    assert "1 of 3 attempts failed" in status_line(running(status="QUEUED"), None)
    assert "attempt" not in status_line(running(status="QUEUED", attempt=0, progress=None), None)
    failed = running(status="FAILED", error="no more\nsecond line")
    assert status_line(failed, None).endswith("no more")
    assert progress_words(replace(running(), progress=None)) == ""


def test_names_are_no_markup_and_many_rows_are_cut() -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(runs_table(status(*(replace(running(), id=f"{number:016x}") for number in range(30)))))
    text = console.file.getvalue()
    assert text.startswith("0 queued, 30 running, 0 done, 0 failed, 0 cancelled")
    assert text.count("[red]m[/red]") == 20
    assert "10 more" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_ended_runs_are_shown_once_and_running_ones_as_rows_or_lines(terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=terminal, color_system=None)
    other = replace(done(), id="2" * 16)
    if terminal:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            show_all(JointDisplay(live, console), other)
    else:
        show_all(JointDisplay(None, console), other)
    text = console.file.getvalue()
    assert text.count("1 of 2 runs had already ended.") == 1
    assert text.count("[red]m[/red] x d: clip_fid 7 -> 5, 60 s training") == 1
    assert ("fine-tuning 50/100, loss 0.125; about 40 s left" in text) != terminal


def test_a_file_gets_a_line_for_each_stage_and_then_one_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    clock, ended = [0.0], done()
    monkeypatch.setattr(display.time, "monotonic", lambda: clock[0])
    with display.run_bar() as reporter:
        reporter.notice("To measure: m.")
        reporter.planned(2, 1)
        reporter.began(running())
        for step in range(101):
            clock[0] = 100 + step
            reporter.step("fine-tuning", step, 100, 0.5)
        reporter.step("sampling after", 0, 8, None)
        for step in (1, 2):
            clock[0] += 601
            reporter.step("sampling after", step, 800, None)
        reporter.ended(ended, "done")
        # A run that goes on from its checkpoint, by its own pace.
        reporter.began(running())
        for stage, step in (("sampling before", 0), ("fine-tuning", 5000), ("fine-tuning", 6000)):
            clock[0] += 100
            reporter.step(stage, step, 10_000, None)
    name = "[red]m[/red] x d: "
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["To measure: m.", "1 of 2 runs already done."]
    assert lines[2:5] == [
        f"{name}fine-tuning 0/100, loss 0.5",
        f"{name}fine-tuning 10/100, loss 0.5; about 90 s left",
        f"{name}fine-tuning 20/100, loss 0.5; about 80 s left",
    ]
    assert lines[-7:] == [
        f"{name}sampling after 0/8",
        f"{name}sampling after 1/800; about 5.6 days left",
        f"{name}sampling after 2/800; about 5.6 days left",
        f"{name}clip_fid 7 -> 5, 60 s training",
        f"{name}sampling before 0/10,000",
        f"{name}fine-tuning 5,000/10,000",
        f"{name}fine-tuning 6,000/10,000; about 7 min left",
    ]
    assert len(lines) == 2 + 11 + 7


def show_all(display: JointDisplay, other: Run) -> None:
    for one in (running(), running(), done(), done()):
        display.standing(status(other, one))


def test_a_step_is_announced_before_its_first_part_and_then_says_how_long_the_rest_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    clock = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: clock[0])
    show = display.show_time_left("rows")
    show("Reading", 0, 0)
    for seconds, done in ((50, 0), (60, 1000), (65, 1500), (80, 3000), (90, 4000)):
        clock[0] = seconds
        show("Saving", done, 4000)
    # After 15 s less than twice the 10 s have passed, and at the end nothing is left.
    assert capsys.readouterr().err.splitlines() == [
        "Reading.",
        "Saving: 4,000 rows.",
        "Saving: 1,000 of 4,000 rows; about 30 s left.",
        "Saving: 3,000 of 4,000 rows; about 10 s left.",
    ]


def test_the_command_that_runs_a_proposal_has_its_path_in_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    show_proposal(Proposal((), 0.0, 0, 1.0, "nothing"), 1.0, None, Path("my pairs.csv"), as_json=False)
    assert "run them with `matchgraph ingest run --pairs 'my pairs.csv'`." in capsys.readouterr().out
