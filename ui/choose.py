"""The tab that answers which model to take, from images or a dataset, with reasons, costs and a queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from matchgraph.ingest.runs.estimates import bases
from matchgraph.ingest.tables.new_dataset import NewFolder
from matchgraph.predictor.answer import Answer
from matchgraph.predictor.sentences import sentences, time_cell
from matchgraph.ui.parts import answered, busy, later, notice, share_bar, table, thumbnails
from matchgraph.ui.uploads import DEFAULT_NAME, MAX_FILE_BYTES, MAX_FILES, Refused
from matchgraph.words import SECONDS_PER_HOUR, count, duration

if TYPE_CHECKING:
    from matchgraph.predictor.matching import Neighbour, RankedModel
    from matchgraph.predictor.starting import StartingPoint
    from matchgraph.ui.desk import Asked, Desk

DROP, FOLDER, KNOWN = "My images", "A folder", "A known dataset"
# Of a large zoo, the rest is not worth a page's length.
MOST_ROWS = 30
TICK_S = 0.3

# In place of the toolkit's: its button holds the input, so that neither has a name, and its list has nameless
# buttons that would remove a file from the list alone.
DROP_HEADER = """
<div class="mg-drop-head">
  Drop images here, and captions as .txt files of the same names
  <q-btn flat dense icon="add_box" aria-label="Choose images and captions" @click="props.pickFiles" />
  <label class="mg-unseen">Images and captions<q-uploader-add-trigger /></label>
</div>
"""
DROP_LIST = """
<div class="mg-line">
  {{ ["", "1 file chosen"][props.files.length] ?? `${props.files.length} files chosen` }}
</div>
"""


class ChooseTab:
    """What one visitor asks.

    Args:
        desk: the services.
        datasets: ids of the graph's datasets.
        show_runs: shows the tab of the runs.
    """

    def __init__(self, desk: Desk, datasets: Sequence[str], show_runs: Callable[[], object]) -> None:
        from nicegui import ui

        self._desk, self._show_runs = desk, show_runs
        self._uploads = desk.uploads()
        self._progress = ""
        self._datasets = list(datasets)
        with ui.element("section").classes("mg-card"):
            ui.label("Which model will be best after fine-tuning on your images?").classes("mg-title")
            kinds = [DROP, *([FOLDER] if desk.names_folders else []), *([KNOWN] if self._datasets else [])]
            self._kind = ui.toggle(kinds, value=KNOWN if self._datasets and desk.probe is None else DROP)
            self._kind.props("no-caps unelevated").classes("mg-toggle")
            self._inputs()
            with ui.row().classes("mg-actions"):
                self._fits = ui.number("Memory of my card, GiB", min=1, max=1024).props(
                    "outlined dense clearable"
                )
                self._fits.classes("mg-fits").tooltip(
                    "Only models whose fine-tuning fits a graphics card of this much memory"
                )
                self._ask = ui.button("Rank the models", on_click=self._asked).props("no-caps unelevated")
            self._doing = ui.label().classes("mg-doing").props("aria-live=polite")
        self._result = ui.element("div").classes("mg-result").props("aria-live=polite")
        self._ticking = ui.timer(TICK_S, self._tick, active=False)
        ui.context.client.on_delete(self._left)

    async def _left(self) -> None:
        from nicegui import run

        # Not here: a file that is being read holds it up.
        await run.io_bound(self._desk.leave, self._uploads)

    def _inputs(self) -> None:
        from nicegui import ui

        with ui.element("div").bind_visibility_from(self._kind, "value", value=DROP):
            if self._desk.probe is None:
                notice(
                    "Images need a probe: start `matchgraph ui` with --probe or MATCHGRAPH_PROBE.", "warning"
                )
            self._drop = ui.upload(
                multiple=True,
                auto_upload=True,
                max_file_size=MAX_FILE_BYTES,
                max_files=MAX_FILES,
                on_upload=self._dropped,
                on_rejected=lambda: ui.notify("Too large, or too many files.", type="warning"),
            )
            self._drop.add_slot("header", DROP_HEADER)
            self._drop.add_slot("list", DROP_LIST)
            self._drop.props('accept="image/*,.txt" flat bordered').classes("mg-drop")
            self._took = ui.label().classes("mg-doing").props("aria-live=polite")
            self._name = ui.input("Name of the dataset", value=DEFAULT_NAME).props("outlined dense")
            self._name.classes("mg-wide")
        with ui.element("div").bind_visibility_from(self._kind, "value", value=FOLDER):
            self._folder = ui.input("Folder on this machine", placeholder="~/pictures/my-images")
            self._folder.props("outlined dense").classes("mg-wide").on("keydown.enter", self._asked)
        with ui.element("div").bind_visibility_from(self._kind, "value", value=KNOWN):
            first = self._datasets[0] if self._datasets else None
            self._known = ui.select(self._datasets, label="Dataset", value=first, with_input=True)
            self._known.props("outlined dense").classes("mg-wide")

    async def _dropped(self, event: Any) -> None:
        from nicegui import ui

        await answered(
            partial(self._uploads.add, event.file.name, await event.file.read()),
            lambda reason: ui.notify(reason, type="warning", multi_line=True),
        )
        images, captions = self._uploads.images, self._uploads.captions
        self._took.set_text(f"{count(images, 'image')}, {count(captions, 'caption')}")

    def _target(self) -> str | NewFolder:
        """What is asked about.

        Raises:
            Error: nothing, or something that may not be.
        """
        if self._kind.value == KNOWN:
            return str(self._known.value)
        if self._kind.value == FOLDER:
            return self._desk.named(self._folder.value or "")
        self._uploads.rename(self._name.value or "")
        if self._uploads.folder is None:
            raise Refused("Drop at least two images first.")
        return self._desk.dropped(self._uploads.folder)

    def _note(self, step: str, done: int, of: int) -> None:
        # Called from the thread of the work.
        self._progress = f"{step} {done} of {of}" if of else step

    def _tick(self) -> None:
        self._doing.set_text(f"{self._progress} …" if self._progress else "")

    async def _asked(self) -> None:
        # Enter comes here as well.
        if not self._ask.enabled:
            return
        fits = float(self._fits.value) if self._fits.value else None
        self._result.clear()
        self._progress = "waiting for another question" if self._desk.turn.locked() else "reading"
        self._ticking.activate()
        with busy(self._ask):
            asked = await answered(
                lambda: self._desk.ask(self._target(), fits_gib=fits, on_progress=self._note),
                self._failed,
                turn=self._desk.turn,
            )
        self._ticking.deactivate()
        self._progress = ""
        self._tick()
        if asked is not None and not self._result.is_deleted:
            with self._result:
                self._show(asked)

    def _failed(self, reason: str) -> None:
        with self._result:
            notice(reason, "error")

    def _show(self, asked: Asked) -> None:
        from nicegui import ui

        if not isinstance(asked.answer, Answer):
            show_start(asked.answer)
            return
        answer = asked.answer
        with ui.element("section").classes("mg-card"):
            first, *further = sentences(answer).splitlines()
            ui.label(first).classes("mg-verdict")
            own = ui.element("div")
            show_ranking(answer)
            with ui.expansion("Why, and how far to trust it").classes("mg-more"):
                for line in further:
                    ui.label(line).classes("mg-line")
        with ui.element("section").classes("mg-card"):
            self._measure(asked, answer)
        with ui.element("section").classes("mg-card"):
            ui.label("Most similar datasets").classes("mg-title")
            near = [(each.dataset, each.dataset, self._neighbour(each)) for each in answer.neighbours]
        later(lambda: self._pictures([(asked.target, answer.dataset, own), *near]))

    def _neighbour(self, near: Neighbour) -> Any:
        from nicegui import ui

        best = f"best there: {', '.join(near.best)}" if near.best else "nothing measured there"
        with ui.element("div").classes("mg-near"):
            with ui.element("div"):
                ui.label(near.dataset).classes("mg-strong")
                ui.label(f"{near.similarity:.4g} away; {best}")
            return ui.element("div")

    async def _pictures(self, places: Sequence[tuple[str | NewFolder, str, Any]]) -> None:
        for target, name, place in places:
            found = await answered(partial(self._desk.pictures, target))
            if found and not place.is_deleted:
                with place:
                    thumbnails(found, name)

    def _measure(self, asked: Asked, answer: Answer) -> None:
        from nicegui import ui

        ui.label("To be sure, measure the likeliest").classes("mg-title")
        chosen: dict[str, Any] = {}
        choices = ui.element("div").classes("mg-choices")
        for model in answer.ranking[:MOST_ROWS]:
            able = asked.able.get(model.model)
            proposed = model.model in answer.verdict.measure
            if not proposed and (able is None or len(chosen) >= 2 * len(answer.verdict.measure)):
                continue
            with choices:
                text = f"{model.model}: {_time(asked, model.model)}"
                box = ui.checkbox(text, value=proposed and able is not None)
            box.set_enabled(able is not None)
            chosen[model.model] = box
        total = ui.label().classes("mg-line")

        def add_up() -> None:
            picked = [model for model, box in chosen.items() if box.value]
            able = [asked.able[model] for model in picked]
            hours = [each.hours for each in able if each.hours is not None]
            sides = " and ".join(str(side) for side in sorted({each.config.resolution_px for each in able}))
            words = count(len(picked), "run")
            if hours:
                words += f", about {duration(sum(hours) * SECONDS_PER_HOUR)} on one device"
            if len(hours) < len(able):
                words += f", {'and some ' if hours else ''}whose time is not known"
            if picked:
                words += f"; {sides} px"
            if hours:
                words += f", estimated from {bases([each.estimate for each in able])}"
            total.set_text(words)

        for box in chosen.values():
            box.on_value_change(add_up)
        add_up()
        if self._desk.read_only:
            notice("This page is read-only: nothing is queued here.")
            return
        ui.label(
            "Each is fine-tuned as the graph's results were, sampled and measured. Images that are not in "
            "the graph yet become a dataset of it."
        ).classes("mg-line")
        button = ui.button("Queue these runs").props("no-caps outline")

        async def queue() -> None:
            picked = [model for model, box in chosen.items() if box.value]
            if not picked:
                ui.notify("Choose at least one model.", type="warning")
                return
            self._ticking.activate()
            with busy(button):
                runs = await answered(lambda: self._desk.queue(asked, picked, self._note))
            self._ticking.deactivate()
            self._progress = ""
            self._tick()
            if runs is not None:
                ui.notify(f"{count(len(runs), 'run')} in the queue.", type="positive")
                self._show_runs()

        button.on_click(queue)


def _time(asked: Asked, model: str) -> str:
    able = asked.able.get(model)
    if able is None:
        return "no folder on this machine is known"
    return "time not known" if able.hours is None else f"about {duration(able.hours * SECONDS_PER_HOUR)}"


def show_ranking(answer: Answer) -> None:
    """The ranking as a table, with what was measured where that is known."""
    from nicegui import ui

    metric, measured = answer.provenance["metric"], answer.measured
    columns = ["#", "model", "expected rank", "P(best)", "fine-tuning", "per image"]
    if measured:
        columns.append(f"measured {metric}")

    def row(place: int, model: RankedModel) -> list[Any]:
        cells = [
            str(place),
            lambda: ui.label(model.model).classes("mg-strong"),
            f"{model.expected_rank:.1f} ± {model.rank_std:.1f}",
            lambda: share_bar(model.p_best),
            time_cell(model.cost.train_seconds) or "?",
            time_cell(model.cost.sample_seconds_per_image) or "?",
        ]
        if measured:
            cells.append(f"{measured[model.model]:.4g}" if model.model in measured else "")
        return cells

    shown = answer.ranking[:MOST_ROWS]
    table(columns, [row(*one) for one in enumerate(shown, start=1)], numbers=columns[:1] + columns[2:])
    if len(answer.ranking) > len(shown):
        ui.label(f"and {len(answer.ranking) - len(shown)} more").classes("mg-line")


def show_start(start: StartingPoint) -> None:
    """What is published of the models, while the graph has no results."""
    from nicegui import ui

    with ui.element("section").classes("mg-card"):
        ui.label("What is published of the models").classes("mg-title")
        for note in start.notes:
            ui.label(note).classes("mg-line")
        rows = [
            [
                str(one.rank or ""),
                one.model,
                one.license or "",
                "" if one.fits_gib is None else f"{one.fits_gib} GiB",
            ]
            for one in start.models[:MOST_ROWS]
        ]
        table(["rank", "model", "license", "fits"], rows, numbers=("rank", "fits"))
