"""The tab of the fine-tuning runs: how each stands, its loss and its samples as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from matchgraph.graphdb.metrics import KNOWN_METRICS
from matchgraph.ingest.runs.curves import finite_losses, moving_mean
from matchgraph.ingest.runs.entries import CANCELLED, DONE, FAILED, QUEUED, RUNNING
from matchgraph.ingest.runs.status import attempt_words
from matchgraph.ui.parts import answered, image, notice, table, tagged
from matchgraph.words import count, duration

if TYPE_CHECKING:
    from matchgraph.ingest.runs.entries import Run
    from matchgraph.ingest.runs.status import RunsStatus
    from matchgraph.ingest.runs.workflow import ChangedRuns
    from matchgraph.ui.desk import Desk
    from matchgraph.ui.pictures import RunFiles
    from matchgraph.ui.work import Work

EVERY_S = 2.0
MOST_ROWS = 30
# A curve of more points would be sent whole every few seconds.
MOST_POINTS = 400
WORK_COMMAND = "matchgraph ingest worker"


class RunsTab:
    """What one visitor sees of the runs.

    Args:
        desk: the services.
        work: the server's own workers.
        visible: whether the tab is the one that is shown.
    """

    def __init__(self, desk: Desk, work: Work, visible: Callable[[], bool]) -> None:
        from nicegui import ui

        self._desk, self._work, self._visible = desk, work, visible
        self._chosen: str | None = None
        self._shown: Any = None
        self._looking = False
        with ui.element("section").classes("mg-card"):
            self._counts = ui.label("…").classes("mg-title").props("aria-live=polite")
            self._workers = ui.element("div").classes("mg-actions")
        # Above the list, which may be long.
        self._detail = ui.element("section").classes("mg-card")
        self._detail.set_visibility(False)
        with ui.element("section").classes("mg-card"):
            self._list = ui.element("div")
        ui.timer(EVERY_S, self.look)

    def choose(self, run: str | None) -> None:
        """Show a run in detail."""
        self._chosen, self._shown = run, None

    async def look(self) -> None:
        """Look at the ledger, unless nobody sees it or the last look is not over."""
        if self._looking or not self._visible():
            return
        self._looking = True
        try:
            await self._look()
        finally:
            self._looking = False

    async def _look(self) -> None:
        status = await answered(self._desk.runs, self._away)
        if status is None or self._list.is_deleted:
            return
        runs = status.newest_first()
        chosen = next((run for run in runs if run.id == self._chosen), None)
        files = None if chosen is None else await answered(lambda: self._desk.run_files(chosen))
        losses = [] if chosen is None or files is None else self._desk.losses(chosen, files)
        facts = (
            [(run.id, run.status, run.progress, run.expired) for run in runs[:MOST_ROWS]],
            [duration(status.seconds_left.get(run.id)) for run in runs[:MOST_ROWS]],
            self._chosen,
            files,
            len(losses),
            (self._work.going_on, self._work.failure),
        )
        # What is drawn again loses the keyboard's place, so only what has changed is.
        if facts == self._shown or self._list.is_deleted:
            return
        self._shown = facts
        self._counts.set_text(
            ", ".join(f"{number} {name.lower()}" for name, number in status.counts.items() if number)
            or "No runs yet"
        )
        self._draw_workers(status)
        self._draw_list(status, runs)
        self._detail.clear()
        self._detail.set_visibility(chosen is not None)
        if chosen is not None and files is not None:
            with self._detail:
                self._draw_detail(chosen, files, losses)

    def _away(self, reason: str) -> None:
        # It looks again every few seconds, so this stands in its place until the graph answers.
        if not self._counts.is_deleted:
            self._counts.set_text(reason)
        self._shown = None

    def _draw_workers(self, status: RunsStatus) -> None:
        from nicegui import ui

        self._workers.clear()
        waiting = status.counts[QUEUED]
        with self._workers:
            if self._work.failure:
                notice(self._work.failure, "error")
            if self._work.going_on:
                ui.spinner(size="1.2em")
                ui.label("This server carries out what is queued; stopping it puts the runs back.").classes(
                    "mg-line"
                )
            elif waiting and not self._desk.read_only:
                ui.button(f"Work on {count(waiting, 'queued run')} here", on_click=self._begin).props(
                    "no-caps outline"
                )
                ui.label("or, on any machine that reaches the graph:").classes("mg-line")
                tagged("code", WORK_COMMAND)
            elif waiting:
                ui.label(f"{count(waiting, 'run')} in the queue, for").classes("mg-line")
                tagged("code", WORK_COMMAND)

    def _begin(self) -> None:
        self._work.begin()
        self._shown = None

    def _draw_list(self, status: RunsStatus, runs: Sequence[Run]) -> None:
        from nicegui import ui

        self._list.clear()
        with self._list:
            rows = [self._row(run, status.seconds_left.get(run.id)) for run in runs[:MOST_ROWS]]
            if rows:
                table(["run", "model", "dataset", "status", "progress", "time left"], rows)
            if len(runs) > MOST_ROWS:
                ui.label(
                    f"and {count(len(runs) - MOST_ROWS, 'more run')}: `matchgraph ingest status` has all"
                ).classes("mg-line")

    def _row(self, run: Run, left: float | None) -> list[Any]:
        from nicegui import ui

        def link() -> None:
            button = ui.button(run.id[:8], on_click=lambda: self.choose(run.id)).props("flat dense no-caps")
            button.props["aria-label"] = f"Show run {run.id[:8]}: {run.model} on {run.dataset}"
            button.props["aria-pressed"] = "true" if run.id == self._chosen else "false"

        def standing() -> None:
            ui.label("worker lost" if run.expired else run.status.lower()).classes(
                f"mg-status mg-{run.status.lower()}"
            )

        def progress() -> None:
            ui.label(progress_of(run))
            if run.status == RUNNING and run.progress is not None and run.progress.of:
                with ui.element("div").classes("mg-bar").props("aria-hidden=true"):
                    ui.element("div").style(f"width: {100 * run.progress.step / run.progress.of:.1f}%")

        running = run.status == RUNNING
        return [link, run.model, run.dataset, standing, progress, duration(left) if running and left else ""]

    def _draw_detail(self, run: Run, files: RunFiles, losses: Sequence[tuple[int, float]]) -> None:
        from nicegui import ui

        ui.label(f"{run.model} on {run.dataset}").classes("mg-title")
        with ui.element("div").classes("mg-actions"):
            words = attempt_words(run)
            ui.label(f"run {run.id}, {words}" if words else f"run {run.id}").classes("mg-line")
            if not self._desk.read_only and run.status in (QUEUED, RUNNING):
                ui.button("Cancel", on_click=lambda: self._change(self._desk.cancel, run)).props(
                    "no-caps outline"
                )
            if not self._desk.read_only and run.status in (FAILED, CANCELLED):
                ui.button("Queue again", on_click=lambda: self._change(self._desk.retry, run)).props(
                    "no-caps outline"
                )
        if run.error:
            notice(run.error, "error" if run.status == FAILED else "warning")
        if run.status == DONE:
            table(
                ["metric", "pretrained", "fine-tuned"], scores_of(run), numbers=("pretrained", "fine-tuned")
            )
        if len(losses) > 1:
            ui.echart(loss_options(losses), renderer="svg").classes("mg-chart").props(
                "role=img aria-label='Training loss by step'"
            )
        # Beside each other where there is room, to be compared.
        with ui.element("div").classes("mg-grids"):
            for title, uri in files.grids:
                with ui.element("figure").classes("mg-grid"):
                    tagged("figcaption", title, "mg-line")
                    image(uri, f"{title}: samples of {run.model} for captions of {run.dataset}")
        if files.folder is not None:
            ui.label(f"Files: {files.folder}").classes("mg-line")

    async def _change(self, change: Callable[[str], ChangedRuns], run: Run) -> None:
        from nicegui import ui

        found = await answered(lambda: change(run.id))
        if found is not None and not found.changed:
            now = ", ".join(each.status.lower() for each in found.unchanged)
            ui.notify(f"Nothing has changed: the run is {now}.", type="warning")
        self._shown = None
        await self.look()


def progress_of(run: Run) -> str:
    """How far a run is, or what came of it."""
    if run.status == DONE:
        metric = run.config["metrics"][0]
        return f"{metric} {run.properties[metric]:.4g}" if metric in run.properties else "measured"
    if run.status == FAILED:
        return (run.error or "").splitlines()[0][:80] if run.error else ""
    if run.progress is None or run.status == QUEUED:
        return ""
    progress = run.progress
    words = f"{progress.stage} {progress.step:,}/{progress.of:,}" if progress.of else progress.stage
    return words if progress.loss is None else f"{words}, loss {progress.loss:.4g}"


def scores_of(run: Run) -> list[list[str]]:
    """Each metric of a finished run before and after fine-tuning."""
    rows = []
    for metric in run.config["metrics"]:
        before, after = run.properties.get(f"initial_{metric}"), run.properties.get(metric)
        known = KNOWN_METRICS.get(metric)
        better = "" if known is None else f" ({'larger' if known.larger_is_better else 'smaller'} is better)"
        values = ["" if value is None else f"{value:.4g}" for value in (before, after)]
        rows.append([f"{metric}{better}", *values])
    return rows


def loss_options(losses: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """The loss of the steps that are known, faint, and its moving mean.

    Args:
        losses: step and loss, by step.
    """
    places, known = finite_losses([loss for _, loss in losses])
    mean = moving_mean(known)
    every = max(1, len(known) // MOST_POINTS)
    steps = [losses[place - 1][0] for place in places]

    def points(values: Any) -> list[list[float]]:
        return [[steps[index], float(f"{values[index]:.5g}")] for index in range(0, len(steps), every)]

    axis = {
        "axisLabel": {"color": "currentColor"},
        "nameTextStyle": {"color": "currentColor"},
        "nameLocation": "middle",
    }
    line = {"type": "line", "showSymbol": False, "animation": False}
    return {
        "animation": False,
        "grid": {"left": 56, "right": 16, "top": 32, "bottom": 40},
        "legend": {"textStyle": {"color": "currentColor"}, "top": 0},
        "tooltip": {"trigger": "axis"},
        "xAxis": {"type": "value", "name": "step", "nameGap": 24, "min": "dataMin", "max": "dataMax", **axis},
        "yAxis": {"type": "value", "scale": True, "splitLine": {"lineStyle": {"opacity": 0.3}}, **axis},
        "series": [
            {
                **line,
                "name": "each step",
                "data": points(known),
                "lineStyle": {"width": 1, "color": "#8a94a3"},
                "itemStyle": {"color": "#8a94a3"},
            },
            {
                **line,
                "name": "mean",
                "data": points(mean),
                "lineStyle": {"width": 2, "color": "#0072b2"},
                "itemStyle": {"color": "#0072b2"},
            },
        ],
    }
