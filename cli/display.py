"""Progress on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from matchgraph.ingest.runs.entries import LONG_STAGES, RunProgress
from matchgraph.ingest.runs.reporter import Reporter
from matchgraph.ingest.runs.status import attempt_words
from matchgraph.words import count, duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.progress import Progress
    from rich.table import Table

    from matchgraph.ingest.runs.entries import Run
    from matchgraph.ingest.runs.status import RunsStatus
    from matchgraph.progress import Progress as OnProgress
    from matchgraph.progress import Work

MOST_ROWS = 20
# Between two lines about a stage: at least this long and this share of it, or else the longer time.
LEAST_S, LEAST_SHARE, MOST_S = 10.0, 0.1, 600.0


def show_work(work: Work) -> None:
    """Say on stderr what is about to be drawn, and how long it will take once the pace is known."""
    import click

    if work.seconds is None:
        click.echo(f"To draw: {count(work.images, 'image')}, {work.tflop:.3g} TFLOP.", err=True)
    else:
        shorter, longer = map(duration, work.seconds)
        left = f"About {longer}" if shorter == longer else f"Between {shorter} and {longer}"
        click.echo(f"{left} left.", err=True)


class TimeLeft:
    """How long the rest of something takes at the pace since its first part was done."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def after(self, done: int, total: int) -> str:
        """How long is left, to be put behind what is shown; nothing before the pace is known, and at the end.

        Args:
            done: parts.
            total: of so many.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        began, first = self._first
        if done <= first or done >= total:
            return ""
        return f"; about {duration((now - began) / (done - first) * (total - done))} left"


def show_time_left(unit: str) -> OnProgress:
    """Say on stderr how much there is when a step begins, then about how long the rest takes, each time that
    twice as long has passed.

    Args:
        unit: what is counted, in the plural.
    """
    import click

    clock, began, wait = TimeLeft(), 0.0, 0.0

    def show(step: str, done: int, total: int) -> None:
        nonlocal clock, began, wait
        now = time.monotonic()
        if done == 0:
            clock, began, wait = TimeLeft(), now, 0.0
            click.echo(f"{step}: {total:,} {unit}." if total else f"{step}.", err=True)
        left, taken = clock.after(done, total), now - began
        if left and wait <= taken:
            wait = 2 * taken
            click.echo(f"{step}: {done:,} of {total:,} {unit}{left}.", err=True)

    return show


def progress_display() -> Progress:
    """Bars with the time left, on stderr."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        # In a file or a pipe a bar would be nothing but blank lines.
        disable=not console.is_terminal,
    )


def figures(run: Run) -> str:
    """What a finished run measured, as text."""
    parts = []
    for metric in run.config["metrics"]:
        before = run.properties.get(f"initial_{metric}")
        change = "" if before is None else f"{before:.4g} -> "
        parts.append(f"{metric} {change}{run.properties[metric]:.4g}")
    return f"{', '.join(parts)}, {run.properties['training_seconds']:.0f} s training"


def progress_words(run: Run) -> str:
    """How far a run is, or was when it was last worked on; empty unless a worker reported it."""
    return "" if run.progress is None else stage_words(run.progress)


def stage_words(progress: RunProgress) -> str:
    """A stage, how much of it is done, and the loss where there is one."""
    words = progress.stage
    if progress.of:
        words += f" {progress.step:,}/{progress.of:,}"
    return words if progress.loss is None else f"{words}, loss {progress.loss:.4g}"


def status_line(run: Run, seconds_left: float | None, *, resumes: bool = False) -> str:
    """One run in one line: status, id, pair, attempts, and progress, figures or error.

    Args:
        run: the run.
        seconds_left: until it is done, where it is running and that is known.
        resumes: whether a checkpoint of it is here.
    """
    facts = [f"{run.status:<9} {run.id}  {run.model} x {run.dataset}", attempt_words(run)]
    if run.replicate or run.average is not None:
        kind = "replicate" if run.replicate else "repeat"
        facts.append(f"{kind}, seed {run.config['seed']}")
    if run.status == "QUEUED" and run.progress is not None and run.progress.stage in LONG_STAGES:
        facts.append(
            f"interrupted at {progress_words(run)}{'; resumes from its checkpoint' if resumes else ''}"
        )
    if run.status == "RUNNING":
        facts.append(progress_words(run))
        facts.append("worker lost" if run.expired else f"{duration(seconds_left)} left")
    if run.status == "DONE":
        facts.append(figures(run))
    if run.error:
        facts.append(run.error.splitlines()[0])
    return "  ".join(filter(None, facts))


def counts_line(status: RunsStatus) -> str:
    """How many runs there are of each status."""
    return ", ".join(f"{number} {name.lower()}" for name, number in status.counts.items())


def runs_table(status: RunsStatus) -> Table:
    """The running runs as a table under the counts of all."""
    from rich.text import Text

    from matchgraph.cli.rendering import new_table

    table = new_table(counts_line(status))
    for name in ("run", "model", "dataset", "stage", "progress", "loss", "left", "host"):
        table.add_column(name, justify="right" if name in {"progress", "loss", "left"} else "left")
    running = [run for run in status.runs if run.status == "RUNNING"]
    for run in running[:MOST_ROWS]:
        progress = run.progress
        of = f"{progress.step:,}/{progress.of:,}" if progress is not None and progress.of else ""
        loss = "" if progress is None or progress.loss is None else f"{progress.loss:.4g}"
        cells = [
            run.id,
            run.model,
            run.dataset,
            "worker lost" if run.expired else progress.stage if progress is not None else "",
            of,
            loss,
            duration(status.seconds_left.get(run.id)),
            str(run.properties.get("host", "")),
        ]
        # Text, and not str: a name such as [red] is a name, and no markup.
        table.add_row(*map(Text, cells))
    if len(running) > MOST_ROWS:
        table.add_row("...", f"{len(running) - MOST_ROWS} more")
    return table


class RunReporter(Reporter):
    """Shows all runs as one bar and the current run as another; finished runs stay as lines on stderr."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._all = bars.add_task("runs", total=None)
        self._step = bars.add_task("", total=None, visible=False)
        self._named: str | None = None

    def notice(self, sentence: str) -> None:
        """See `Reporter`."""
        self._bars.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def planned(self, total: int, done: int) -> None:
        """See `Reporter`."""
        # Runs that were done before took no time now, so they must not shorten the estimate.
        self._bars.update(self._all, total=total - done)
        if done:
            self._print(f"{done} of {total} runs already done.")

    def began(self, run: Run) -> None:
        """See `Reporter`."""
        from rich.markup import escape

        self._bars.update(self._all, description=escape(f"{run.model} x {run.dataset}"))
        self._named = None

    def step(self, stage: str, done: int, of: int, loss: float | None) -> None:
        """See `Reporter`."""
        if stage != self._named:
            self._bars.reset(self._step, description=f"  {stage}", total=of, visible=True)
            self._named = stage
        words = f"  {stage}" if loss is None else f"  {stage}, loss {loss:.4g}"
        self._bars.update(self._step, completed=done, description=words)

    def ended(self, run: Run, outcome: str) -> None:
        """See `Reporter`."""
        self._bars.advance(self._all)
        self._print(ending(run, outcome))

    def _print(self, line: str) -> None:
        # Through the bars' own console, which keeps lines and bars apart; ids are no markup.
        self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)


class LineReporter(Reporter):
    """Shows how runs go as lines on stderr, where that is a file or a pipe: each stage as it begins, and how
    far it is whenever that is worth a line.
    """

    def __init__(self) -> None:
        self._lines = SparseLines()
        self._pair = ""

    def notice(self, sentence: str) -> None:
        """See `Reporter`."""
        say(sentence)

    def planned(self, total: int, done: int) -> None:
        """See `Reporter`."""
        if done:
            say(f"{done} of {total} runs already done.")

    def began(self, run: Run) -> None:
        """See `Reporter`."""
        self._lines = SparseLines()
        self._pair = f"{run.model} x {run.dataset}: "

    def step(self, stage: str, done: int, of: int, loss: float | None) -> None:
        """See `Reporter`."""
        left = self._lines.time_left(self._pair, stage, done, of)
        if left is not None:
            say(f"{self._pair}{stage_words(RunProgress(stage, done, of, loss))}{left}")

    def ended(self, run: Run, outcome: str) -> None:
        """See `Reporter`."""
        say(ending(run, outcome))
        self._pair = ""


class SparseLines:
    """Which steps of something long are worth a line: the first of each stage, and then one for each part of
    it, neither too often nor too seldom.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, float, int]] = {}
        self._clocks: dict[str, TimeLeft] = {}

    def time_left(self, what: str, stage: str, done: int, of: int) -> str | None:
        """How long the rest of a stage takes, if it is worth a line now; None if it is not.

        Args:
            what: whose step it is.
            stage: which stage of that.
            done: steps of the stage.
            of: of so many; 0 where that is not known.
        """
        now = time.monotonic()
        named, then, before = self._last.get(what, ("", now, 0))
        begins = named != stage
        if begins or done < before:
            self._clocks[what] = TimeLeft()
        left = self._clocks[what].after(done, of)
        waited = now - then
        if not begins and (
            done == before or waited < LEAST_S or (done - before < LEAST_SHARE * of and waited < MOST_S)
        ):
            return None
        self._last[what] = stage, now, done
        return left


def say(line: str) -> None:
    """Write a line to stderr."""
    import click

    click.echo(line, err=True)


@contextmanager
def run_bar() -> Iterator[Reporter]:
    """The reporter of one worker: bars on a screen, lines in a file or a pipe."""
    with progress_display() as bars:
        yield LineReporter() if bars.disable else RunReporter(bars)


def ending(run: Run, outcome: str) -> str:
    """How a run ended for this worker, in one line."""
    return f"{run.model} x {run.dataset}: {figures(run) if outcome == 'done' else outcome}"


class JointDisplay(Reporter):
    """Shows the state of several workers, as the ledger has it; ended runs stay as lines.

    Args:
        live: the part of the screen that is redrawn; None if stderr is not a terminal.
        console: where lines go.
    """

    def __init__(self, live: Live | None, console: Console) -> None:
        self._live = live
        self._console = console
        self._ended: set[str] | None = None
        self._lines = SparseLines()

    def standing(self, status: RunsStatus) -> None:
        """See `Reporter`."""
        ended = {run.id: run for run in status.runs if run.status in {"DONE", "FAILED", "CANCELLED"}}
        if self._ended is None:
            self._ended = set(ended)
            if ended:
                self._print(f"{len(ended)} of {len(status.runs)} runs had already ended.")
        for run_id in ended.keys() - self._ended:
            run = ended[run_id]
            outcome = "done" if run.status == "DONE" else run.error or run.status.lower()
            self._print(ending(run, outcome))
        self._ended = set(ended)
        if self._live is not None:
            self._live.update(runs_table(status), refresh=True)
            return
        for run in status.runs:
            progress = run.progress
            if run.status != "RUNNING" or progress is None:
                continue
            if self._lines.time_left(run.id, progress.stage, progress.step, progress.of) is not None:
                left = duration(status.seconds_left.get(run.id))
                self._print(f"{run.model} x {run.dataset}: {stage_words(progress)}; about {left} left")

    def notice(self, sentence: str) -> None:
        """See `Reporter`."""
        self._print(sentence)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def joint_display() -> Iterator[JointDisplay]:
    """A display of all running runs on stderr; a file or a pipe gets lines."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if not console.is_terminal:
        yield JointDisplay(None, console)
        return
    with Live(console=console, transient=True, auto_refresh=False) as live:
        yield JointDisplay(live, console)
