"""Workers on a Ray cluster: as many tasks as it has room for, each of which is a worker like any other.

Ray only starts processes where there is room. What is to be done, what is done and who is at it stands in the
ledger alone: a lost task loses nothing, and is replaced as long as the ledger has something to do. The nodes
need this package, the folders of models and datasets under the same paths, and a Neo4j that they reach.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from matchgraph.errors import Error
from matchgraph.ingest.errors import ClusterUnusable, IngestError, RayMissing, WorkerFailed
from matchgraph.ingest.runs.entries import RUNNING, Run
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.worker import PATIENCE_S, WorkerOptions, stopped_by_signals, work_queue
from matchgraph.settings import check_settings, setting
from matchgraph.training.errors import first_line

if TYPE_CHECKING:
    from matchgraph.graphdb.connection import Settings

POLL_S = 1.0
# Give up after this many tasks in a row that were lost without a claim.
MOST_LOSSES_IN_VAIN = 3
# Cores of a worker without a GPU, where a node has as many.
CORES_PER_WORKER = 4
# For a cluster's port to take a connection; Ray itself asks a silent one for minutes.
ANSWER_S = 10.0
ADVICE = "Start one with `ray start --head`, or name another with --address."
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class ClusterOptions:
    """Which cluster, and how much of it.

    Args:
        address: of the cluster, as `ray.init` takes it; "auto" is the one that this machine belongs to.
        workers: tasks at once; None for as many as there is room for.
        gpus: GPUs of each, or a fraction of one; None for one where the cluster has any.
        cpus: cores of each; None for one beside a GPU, and otherwise up to four.

    Raises:
        ClusterUnusable: the address is empty.
        IngestError: another value is out of range.
    """

    address: str = setting(
        "auto",
        "Ray cluster: HOST:PORT or ray://HOST:PORT, or auto for the one that this machine belongs to.",
    )
    workers: int | None = setting(None, "Tasks at once; by default as many as fit.", at_least=1)
    gpus: float | None = setting(
        None,
        "GPUs per worker on a Ray cluster, or a fraction of one; by default 1 if there are any.",
        at_least=0,
    )
    cpus: float | None = setting(
        None,
        "Cores per worker on a Ray cluster; by default 1 with a GPU, otherwise up to 4.",
        above=0,
    )

    def __post_init__(self) -> None:
        check_settings(self, IngestError)
        if not self.address:
            raise ClusterUnusable("--address is empty: name a cluster.")


@dataclass(frozen=True)
class Share:
    """What one task needs, and how many tasks there may be at once."""

    cpus: float
    gpus: float
    workers: int
    room: int


@dataclass(frozen=True)
class Report:
    """What a task says at its end.

    Args:
        node: Ray's id of the node.
        not_here: run id to reason, of those that cannot be carried out there.
        error: why nothing can be done there at all.
    """

    node: str
    not_here: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None


def work_on_ray(
    settings: Settings,
    ledger: Ledger,
    ids: Sequence[str],
    options: WorkerOptions,
    cluster: ClusterOptions,
    watch: Callable[[Sequence[Run]], None],
    stop: threading.Event,
    notify: Callable[[str], None] = lambda _: None,
) -> dict[str, str]:
    """Work off queued runs on a Ray cluster until none is left that it can take.

    Args:
        settings: which graph, and the data folder, which the nodes should share.
        ledger: the ledger.
        ids: the runs in the order of preference.
        options: how each worker works.
        cluster: which cluster, and how much of it.
        watch: called again and again with the runs as they stand.
        stop: set when the user wants it to end.
        notify: called with a sentence that the user should read.

    Returns:
        Run id to reason, of those that no node can carry out.

    Raises:
        KeyboardInterrupt: the user stopped it; the workers gave their runs back.
        RayMissing: Ray is not installed.
        ClusterUnusable: there is no such cluster, or its nodes cannot reach the graph.
        WorkerFailed: tasks were lost one after another without a claim between them.
    """
    if ":" in options.device:
        raise ClusterUnusable(
            f"Ray says which GPU a worker gets, and --device {options.device} cannot: give auto or cuda."
        )
    with connected(cluster.address) as ray:
        nodes = living_nodes(ray)
        for node in nodes:
            check_reach(settings, socket.gethostname(), node["NodeManagerHostname"])
        share = share_of(nodes, cluster, options.device)
        if not share.room:
            notify(
                f"No node of the cluster has {share.cpus:g} cores and {share.gpus:g} GPUs for a worker: "
                "waiting for one. Ask for less with --cpus and --gpus."
            )
        return _Dispatcher(ray, settings, ledger, ids, options, share, notify).run(watch, stop)


class _Dispatcher:
    """Keeps tasks going as long as the ledger has something for them."""

    def __init__(
        self,
        ray: Any,
        settings: Settings,
        ledger: Ledger,
        ids: Sequence[str],
        options: WorkerOptions,
        share: Share,
        notify: Callable[[str], None],
    ) -> None:
        self._ray, self._ledger, self._ids, self._share = ray, ledger, ids, share
        self._notify = notify
        self._order = (settings, list(ids), options, socket.gethostname())
        self._lease_s = options.lease_ms / 1000
        self._task = ray.remote(serve).options(
            num_cpus=share.cpus, num_gpus=share.gpus, max_retries=0, scheduling_strategy="SPREAD"
        )
        self._tasks: list[Any] = []
        self._refusals: dict[str, Counter[str]] = {}
        self._reasons: dict[str, str] = {}
        self._losses, self._claims = 0, -1
        # Until then a run whose worker was lost with its machine may still count as running.
        self._doubt_until = 0.0

    def run(self, watch: Callable[[Sequence[Run]], None], stop: threading.Event) -> dict[str, str]:
        try:
            while not stop.is_set():
                runs = self._ledger.runs(self._ids)
                watch(runs)
                hopeless = self._hopeless()
                waiting = [run for run in runs if run.id not in hopeless and run.is_waiting]
                in_doubt = time.monotonic() < self._doubt_until and any(run.status == RUNNING for run in runs)
                if in_doubt:
                    self._ledger.recover(runs)
                if not (self._tasks or waiting or in_doubt):
                    return {run_id: self._reasons[run_id] for run_id in hopeless}
                for _ in range(min(len(waiting), self._share.workers - len(self._tasks))):
                    self._tasks.append(self._task.remote(*self._order, list(hopeless)))
                self._collect(stop)
        finally:
            self._end()
            self._ledger.recover(self._ledger.runs(self._ids))
            watch(self._ledger.runs(self._ids))
        raise KeyboardInterrupt

    def _collect(self, stop: threading.Event) -> None:
        """Wait a little for tasks to end, and hear what those say that did."""
        if not self._tasks:
            stop.wait(POLL_S)
            return
        ended, self._tasks = self._ray.wait(self._tasks, timeout=POLL_S)
        for task in ended:
            try:
                report = self._ray.get(task)
            except self._ray.exceptions.RayError as error:
                self._lost(first_line(error))
                continue
            for run_id, reason in report.not_here.items():
                self._refusals.setdefault(run_id, Counter())[report.node] += 1
                self._reasons[run_id] = reason
            if report.error is not None:
                self._lost(report.error)

    def _lost(self, reason: str) -> None:
        """Take note of a task that ended without having done its work."""
        self._notify(f"A worker was lost, and its run goes on in another: {reason}")
        self._ledger.recover(self._ledger.runs(self._ids))
        self._doubt_until = time.monotonic() + self._lease_s + POLL_S
        so_far = sum(run.fence for run in self._ledger.runs(self._ids))
        self._losses, self._claims = (self._losses + 1 if so_far == self._claims else 1), so_far
        if self._losses >= MOST_LOSSES_IN_VAIN:
            raise WorkerFailed(f"Workers on the cluster are lost before they start a run; the last: {reason}")

    def _hopeless(self) -> list[str]:
        """The runs that every node has refused, or that were refused often enough while Ray spread them."""
        nodes = {node["NodeID"] for node in living_nodes(self._ray)}
        return [
            run_id
            for run_id, refusals in self._refusals.items()
            if nodes <= set(refusals) or refusals.total() > 2 * len(nodes)
        ]

    def _end(self) -> None:
        """Ask the tasks to stop and wait for it; a second Ctrl-C meanwhile, or too long a wait, ends them."""
        tasks, self._tasks = self._tasks, []
        try:
            for task in tasks:
                self._ray.cancel(task)
            deadline = time.monotonic() + PATIENCE_S
            while tasks and time.monotonic() < deadline:
                _, tasks = self._ray.wait(tasks, timeout=POLL_S)
        finally:
            for task in tasks:
                self._ray.cancel(task, force=True)


def serve(
    settings: Settings, ids: Sequence[str], options: WorkerOptions, origin: str, without: Sequence[str]
) -> Report:
    """Work off queued runs in a task of a cluster; a task that is cancelled gives its run back.

    Args:
        settings: which graph, and the data folder.
        ids: the runs in the order of preference.
        options: how to work.
        origin: name of the machine that the task was sent from.
        without: runs to leave alone.
    """
    import ray

    node = ray.get_runtime_context().get_node_id()
    try:
        check_reach(settings, origin, socket.gethostname())
        with stopped_by_signals() as stop:
            summary = work_queue(settings, ids, options, without=without, stop=stop)
    except KeyboardInterrupt:
        return Report(node)
    except Exception as error:
        if not isinstance(error, Error):
            raise
        return Report(node, error=str(error))
    return Report(node, not_here=dict(summary.not_here))


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Join a Ray cluster for the time being.

    Yields:
        The module `ray`.

    Raises:
        RayMissing: it is not installed.
        ClusterUnusable: no cluster answers there.
    """
    try:
        import ray
    except ImportError as error:
        raise RayMissing(
            "--executor ray needs Ray, which is not installed here: pip install 'matchgraph[ray]', on every "
            "node of the cluster."
        ) from error
    check_answers(address, ray.util.get_node_ip_address)
    # Ray takes the request to end as its own, and would exit before any run is given back.
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ClusterUnusable(
            f"No Ray cluster can be used at {address!r}: {first_line(error).rstrip('.:')}. {ADVICE}"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
    # Ray prints the last words of lost nodes, page by page, where answers belong, and the rest at its end.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        try:
            yield ray
        finally:
            ray.shutdown()


def check_answers(address: str, own_address: Callable[[], str]) -> None:
    """Refuse the address HOST:PORT or ray://HOST:PORT at which nothing listens; others are left to Ray.

    Raises:
        ClusterUnusable: no connection was taken.
    """
    scheme, found, place = address.rpartition("://")
    host, _, port = place.rpartition(":")
    if (found and scheme != "ray") or not host or not (port.isascii() and port.isdecimal()):
        return
    host = host.strip("[]")
    # Ray takes a loopback address for the one by which other machines know this one.
    hosts = [host, own_address()] if host in LOOPBACK else [host]
    for place in hosts:
        try:
            socket.create_connection((place, int(port)), timeout=ANSWER_S).close()
            return
        except (OSError, OverflowError) as error:
            reason = first_line(error).rstrip(".:")
    raise ClusterUnusable(f"No Ray cluster can be used at {address!r}: {reason}. {ADVICE}")


def living_nodes(ray: Any) -> list[dict[str, Any]]:
    """The cluster's nodes, of those that answer."""
    return [node for node in ray.nodes() if node["Alive"]]


def check_reach(settings: Settings, here: str, there: str) -> None:
    """Refuse to send work where the graph cannot be reached.

    Args:
        settings: which graph.
        here: name of the machine that these are the settings of.
        there: name of the machine that would work.

    Raises:
        ClusterUnusable: another machine, and a graph that answers to this one alone.
    """
    if there != here and (settings.managed or urlsplit(settings.uri or "").hostname in LOOPBACK):
        raise ClusterUnusable(
            f"The cluster's node {there} cannot reach the Neo4j of {here}, which listens on that "
            "machine only: set MATCHGRAPH_NEO4J_URI and MATCHGRAPH_NEO4J_PASSWORD to one that all can reach."
        )


def share_of(nodes: Sequence[Mapping[str, Any]], cluster: ClusterOptions, device: str) -> Share:
    """Say what each worker gets of a cluster, and how many there may be at once.

    Args:
        nodes: the living nodes, as `ray.nodes` gives them.
        cluster: what the user wants.
        device: of the workers: "auto", "cpu" or "cuda".
    """

    def most(resource: str) -> float:
        return max((node["Resources"].get(resource, 0.0) for node in nodes), default=0.0)

    gpus = cluster.gpus
    if gpus is None:
        gpus = 1.0 if device != "cpu" and (most("GPU") >= 1 or device == "cuda") else 0.0
    cpus = cluster.cpus
    if cpus is None:
        cpus = 1.0 if gpus else max(1.0, min(float(CORES_PER_WORKER), most("CPU")))

    def room(resources: Mapping[str, float]) -> int:
        shares = [resources.get(name, 0.0) / each for name, each in (("CPU", cpus), ("GPU", gpus)) if each]
        return int(min(shares, default=1.0))

    rooms = sum(room(node["Resources"]) for node in nodes)
    return Share(cpus, gpus, cluster.workers or max(1, rooms), rooms)
