"""What the page can do: calls of the services, with what the server was started with.

The page decides nothing. What a visitor may not do is refused here, whatever the page shows.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from matchgraph.errors import Error
from matchgraph.graphdb.queries import load
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.ingest.runs.candidates import Measurable, measurable_models
from matchgraph.ingest.runs.entries import Run
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.workflow import ChangedRuns, cancel_runs, retry_runs, runs_status
from matchgraph.ingest.tables.new_dataset import NewFolder
from matchgraph.predictor.recipes import Method
from matchgraph.predictor.workflow import predict_or_start
from matchgraph.progress import Progress, no_progress
from matchgraph.routing.store import RouterStore
from matchgraph.routing.workflow import decide, generate
from matchgraph.shortlist import queue_models
from matchgraph.ui.pictures import DatasetPictures, RunFiles, Thumbnail, image_uri, pictures_in, run_files
from matchgraph.ui.uploads import Uploads
from matchgraph.usable import Conditions

if TYPE_CHECKING:
    from matchgraph.graphdb.connection import Settings
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.graphdb.runner import Runner
    from matchgraph.ingest.runs.status import RunsStatus
    from matchgraph.predictor.answer import Answer
    from matchgraph.predictor.starting import StartingPoint
    from matchgraph.routing.router import Decision


class NotAllowed(Error):
    """This server does not do that for visitors; the message says why."""


@dataclass(frozen=True)
class Known:
    """What a page begins with.

    Attributes:
        datasets: ids of the graph's datasets.
        routers: metrics that prompts can be routed by, sorted.
    """

    datasets: tuple[str, ...]
    routers: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """An answer with what it would take to make sure.

    Attributes:
        target: what was asked about.
        answer: the ranking, or what is published where the graph has no results.
        able: the models that can be measured here, by id.
        metric: what is measured.
    """

    target: str | NewFolder
    answer: Answer | StartingPoint
    able: dict[str, Measurable]
    metric: str


@dataclass(eq=False)
class Desk:
    """The services as one visitor or several use them, each call in a thread of its own.

    Args:
        runner: the connection.
        settings: how workers reach the graph, and the data folder.
        probe: the CLIP model that looks at images; None for none.
        read_only: nothing may be queued, cancelled or retried.
        names_folders: whether visitors may name folders of this machine.
        turn: to be held while a question is answered. One prediction takes all cores; two at a time would
            each take longer than both in turn.
    """

    runner: Runner
    settings: Settings
    probe: str | None = None
    read_only: bool = False
    names_folders: bool = True
    _visits: list[Uploads] = field(default_factory=list, init=False)
    _pictures: DatasetPictures = field(default_factory=DatasetPictures, init=False)
    _losses: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict), init=False)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    @property
    def graph(self) -> MatchingGraph:
        """The graph."""
        return MatchingGraph(self.runner)

    def known(self) -> Known:
        """What a page begins with.

        Raises:
            GraphError: the graph does not answer.
        """
        datasets = [row["id"] for row in self.runner.read(load("read/dataset-ids"))]
        return Known(tuple(datasets), tuple(RouterStore(self.settings.home).metrics()))

    def named(self, folder: str) -> NewFolder:
        """A folder of this machine that a visitor named.

        Raises:
            NotAllowed: this server takes none.
        """
        if not self.names_folders:
            raise NotAllowed(
                "Folders of this machine can be named only where no other machine reaches the page."
            )
        place = Path(folder).expanduser()
        if not folder.strip() or not place.is_dir():
            raise NotAllowed(f"There is no folder {folder!r} on this machine.")
        return self.dropped(place)

    def uploads(self) -> Uploads:
        """A place for what one visitor drops on the page."""
        made = Uploads(self.settings.home, lambda: sum(visit.bytes for visit in tuple(self._visits)))
        self._visits.append(made)
        return made

    def leave(self, visit: Uploads) -> None:
        """End a visit: remove what was dropped, unless it became a dataset."""
        visit.discard()
        # Both the page and the server may end it.
        with suppress(ValueError):
            self._visits.remove(visit)

    def close(self) -> None:
        """End all visits."""
        for visit in tuple(self._visits):
            self.leave(visit)

    def dropped(self, folder: Path) -> NewFolder:
        """The folder of what a visitor dropped on the page."""
        return NewFolder(folder, self.probe, home=self.settings.home)

    def ask(
        self,
        target: str | NewFolder,
        *,
        fits_gib: float | None = None,
        on_progress: Progress = no_progress,
    ) -> Asked:
        """Rank the models for a dataset of the graph or a folder; the graph stays as it is.

        Args:
            target: id of a dataset, or a folder.
            fits_gib: only models whose fine-tuning fits a card of this much memory.
            on_progress: called with the step, and how much of it is done.

        Raises:
            Error: as `predict`.
        """
        graph, home = self.graph, self.settings.home
        method, notes = Conditions(fits_gib).applied(graph, home, Method())
        answer = predict_or_start(graph, target, method=method, home=home, on_progress=on_progress)
        answer = replace(answer, notes=(*answer.notes, *notes))
        return Asked(target, answer, measurable_models(graph, None, method.metric), method.metric)

    def pictures(self, target: str | NewFolder) -> tuple[Thumbnail, ...]:
        """A few pictures of a dataset or a folder; none where they are not on this machine."""
        if isinstance(target, NewFolder):
            return pictures_in(target.folder)
        found = [dataset for dataset in self.graph.datasets() if dataset.id == target]
        return self._pictures.of(found[0]) if found else ()

    def queue(self, asked: Asked, models: Sequence[str], on_progress: Progress = no_progress) -> list[Run]:
        """Queue the runs that measure some models; a folder becomes a dataset of the graph.

        Raises:
            NotAllowed: the server is read-only.
            Error: as `queue_models`.
        """
        self._check_may_write("queued")
        folder = asked.target.folder if isinstance(asked.target, NewFolder) else None
        dropped = [visit for visit in tuple(self._visits) if folder is not None and visit.folder == folder]
        # Before it becomes a dataset's folder, since the visit may end meanwhile.
        for visit in dropped:
            visit.keep()
        try:
            return queue_models(
                self.graph,
                self.settings,
                asked.target,
                models,
                metric=asked.metric,
                probe=self.probe,
                on_progress=on_progress,
            )
        except Exception:
            # Where the graph cannot say it, the folder stays.
            if folder is not None and dropped and not self._is_dataset(folder):
                for visit in dropped:
                    visit.release()
            raise

    def _is_dataset(self, folder: Path) -> bool:
        source = str(folder.resolve())
        return any(dataset.properties.get("source") == source for dataset in self.graph.datasets())

    def runs(self) -> RunsStatus:
        """All runs as they stand; remembers the loss that running ones report."""
        found = runs_status(self.graph)
        for run in found.runs:
            if run.progress is not None and run.progress.loss is not None:
                self._losses[run.id][run.progress.step] = run.progress.loss
        return found

    def run_files(self, run: Run) -> RunFiles:
        """What a run has left on this machine."""
        return run_files(self.settings.home, run)

    def losses(self, run: Run, files: RunFiles) -> list[tuple[int, float]]:
        """Step and loss of a run, as far as they are known: those written, then those heard of since."""
        written = dict(enumerate(files.losses, start=1))
        return sorted({**self._losses[run.id], **written}.items())

    def cancel(self, run: str) -> ChangedRuns:
        """Cancel a run.

        Raises:
            NotAllowed: the server is read-only.
        """
        self._check_may_write("cancelled")
        return cancel_runs(self.graph, [run], home=self.settings.home)

    def retry(self, run: str) -> ChangedRuns:
        """Queue a failed or cancelled run again.

        Raises:
            NotAllowed: the server is read-only.
        """
        self._check_may_write("retried")
        return retry_runs(self.graph, [run])

    def work(self, stop: threading.Event) -> dict[str, str]:
        """Carry out what is queued, in processes of its own as `ingest run --workers auto` does.

        It ends once nothing is queued that this machine can carry out.

        Args:
            stop: set it to end; runs that were begun are given back.

        Returns:
            Run id to reason, of those that this machine cannot carry out.

        Raises:
            NotAllowed: the server is read-only.
            WorkerFailed: the processes die.
        """
        from matchgraph.ingest.runs import local
        from matchgraph.ingest.runs.worker import WorkerOptions

        self._check_may_write("carried out")
        ledger, options = Ledger(self.runner), WorkerOptions()
        shares = local.shares_of(None, options.device)
        not_here: dict[str, str] = {}
        # Visitors queue more while the first are carried out.
        while ids := [run.id for run in ledger.runs() if run.is_waiting and run.id not in not_here]:
            try:
                not_here |= local.work_locally(
                    self.settings, ledger, ids, options, shares, lambda _: None, stop
                )
            except KeyboardInterrupt:
                # What it raises where it was stopped.
                break
        return not_here

    def snapshot(self) -> Snapshot:
        """The graph by its default metric.

        Raises:
            Error: nothing was measured.
        """
        from matchgraph.predictor.workflow import load_snapshot

        return load_snapshot(self.graph)

    def decide(self, prompt: str, metric: str) -> Decision:
        """Which candidate is worth its cost for a prompt; draws nothing.

        Raises:
            Error: as `routing.workflow.decide`, or the server was started without a probe.
        """
        [decision] = decide(self.runner, RouterStore(self.settings.home), [prompt], metric, self._reader())
        return decision

    def draw(self, prompt: str, metric: str) -> str:
        """Draw a prompt with the candidate that it is routed to.

        Returns:
            The image as a data URI.

        Raises:
            NotAllowed: the server is read-only.
            Error: as `routing.workflow.generate`, or the server was started without a probe.
        """
        self._check_may_write("drawn")
        store = RouterStore(self.settings.home)
        with TemporaryDirectory() as out:
            images = generate(self.runner, store, [prompt], metric, self._reader(), Path(out))
            return image_uri(next(iter(images)).path)

    def _reader(self) -> str:
        if self.probe is None:
            raise NotAllowed("Prompts need a probe: start `matchgraph ui` with --probe or MATCHGRAPH_PROBE.")
        return self.probe

    def _check_may_write(self, what: str) -> None:
        if self.read_only:
            raise NotAllowed(f"This page was started with --read-only: nothing is {what} here.")
