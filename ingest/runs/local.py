"""Several workers on one machine: a child process for each GPU, or for each few cores.

The children find their runs in the ledger, as any worker does. The parent only watches: it starts a new child
where one died, as long as there is something to do, and hands on the user's wish to stop.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import matchgraph.errors
from matchgraph.ingest.errors import WorkerFailed
from matchgraph.ingest.runs.entries import Run
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.worker import WorkerOptions

if TYPE_CHECKING:
    from matchgraph.graphdb.connection import Settings

LOGS_FOLDER = "logs"
GPU_VARIABLE, THREADS_VARIABLE = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"
CORES_PER_WORKER = 4
POLL_S = 1.0
# Give up after this many children in a row that died without a claim.
MOST_DEATHS_IN_VAIN = 3
LOG_LINES = 5


@dataclass
class Child:
    """A worker process.

    Args:
        process: the process.
        log: where its stderr goes.
        answer: where its stdout goes.
    """

    process: subprocess.Popen[bytes]
    log: Path
    answer: IO[bytes]

    def not_here(self) -> dict[str, str]:
        """What it reported that it could not carry out on this machine."""
        self.answer.seek(0)
        text = self.answer.read()
        self.answer.close()
        return json.loads(text)["not_here"] if text else {}


def visible_gpus(device: str) -> list[str]:
    """Return the GPUs that workers may use, by the names that CUDA_VISIBLE_DEVICES takes.

    Args:
        device: as given to the workers: "auto", "cpu", "cuda", "cuda:1"...
    """
    kind, _, number = device.partition(":")
    if kind not in {"auto", "cuda"}:
        return []
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get(GPU_VARIABLE)
    gpus = named.split(",")[:count] if named else [str(index) for index in range(count)]
    return [gpus[int(number)]] if number and int(number) < len(gpus) else gpus


def worker_count(asked: int | None, gpus: Sequence[str]) -> int:
    """Return how many workers to start.

    Args:
        asked: by the user; None for one on each GPU, or on every few cores where there is no GPU.
        gpus: the GPUs.
    """
    return asked or len(gpus) or max(1, _cores() // CORES_PER_WORKER)


def places(workers: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """Return each worker's share of the machine, as environment variables.

    Args:
        workers: how many there are.
        gpus: the GPUs, of which each worker sees one; with more workers than GPUs, some share one.
    """
    shares = []
    for number in range(workers):
        share = {GPU_VARIABLE: gpus[number % len(gpus)]} if gpus else {}
        # The number of threads can change the last bits of a result, so the user's own wish comes first.
        if not os.environ.get(THREADS_VARIABLE):
            share[THREADS_VARIABLE] = str(max(1, _cores() // workers))
        shares.append(share)
    return shares


def shares_of(workers: int | None, device: str) -> list[dict[str, str]]:
    """Return each worker's share of the machine; see `worker_count`, `visible_gpus` and `places`.

    Args:
        workers: how many are asked for; None for as many as suit the machine.
        device: as given to the workers.
    """
    gpus = visible_gpus(device)
    return places(worker_count(workers, gpus), gpus)


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def work_locally(
    settings: Settings,
    ledger: Ledger,
    ids: Sequence[str],
    options: WorkerOptions,
    shares: Sequence[Mapping[str, str]],
    watch: Callable[[Sequence[Run]], None],
    stop: threading.Event,
) -> dict[str, str]:
    """Work off queued runs in child processes until none is left that this machine can take.

    Args:
        settings: which graph, and the data folder.
        ledger: the ledger.
        ids: the runs in the order of preference.
        options: how each worker works.
        shares: environment variables of each worker.
        watch: called again and again with the runs as they stand.
        stop: set when the user wants it to end.

    Returns:
        Run id to reason, of those that this machine cannot carry out.

    Raises:
        KeyboardInterrupt: the user stopped it; the children gave their runs back.
        WorkerFailed: children died one after another without a claim between them.
    """
    children: dict[int, Child] = {}
    free = set(range(len(shares)))
    not_here: dict[str, str] = {}
    deaths, claims = 0, -1
    try:
        while not stop.is_set():
            runs = ledger.runs(ids)
            watch(runs)
            waiting = [run for run in runs if run.id not in not_here and run.is_waiting]
            if not children and not waiting:
                return not_here
            if not children:
                free = set(range(len(shares)))
            while free and len(children) < len(runs) and waiting:
                place = min(free)
                free.discard(place)
                children[place] = _start(settings, ids, list(not_here), options, shares[place], place)
                waiting.pop()
            stop.wait(POLL_S)
            for place, child in list(children.items()):
                code = child.process.poll()
                if code is None:
                    continue
                del children[place]
                not_here.update(child.not_here())
                if code == 0:
                    continue
                ledger.recover(ledger.runs(ids))
                # A place whose worker died gets another; one whose worker found nothing left stays empty.
                free.add(place)
                so_far = sum(run.fence for run in ledger.runs(ids))
                deaths, claims = (deaths + 1 if so_far == claims else 1), so_far
                if deaths >= MOST_DEATHS_IN_VAIN:
                    raise WorkerFailed(
                        f"Worker processes die before they start a run. The end of {child.log}: "
                        f"{last_words(child.log)}"
                    )
    finally:
        _end(children.values())
        ledger.recover(ledger.runs(ids))
        watch(ledger.runs(ids))
    raise KeyboardInterrupt


def _end(children: Any) -> None:
    """Ask children to end and wait for it; a second Ctrl-C meanwhile ends them at once."""
    children = list(children)
    try:
        for child in children:
            if child.process.poll() is None:
                child.process.terminate()
        for child in children:
            child.process.wait()
    finally:
        for child in children:
            if child.process.poll() is None:
                child.process.kill()
                child.process.wait()


def _start(
    settings: Settings,
    ids: Sequence[str],
    without: Sequence[str],
    options: WorkerOptions,
    share: Mapping[str, str],
    place: int,
) -> Child:
    log = settings.home / LOGS_FOLDER / f"worker-{place + 1}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # The child must load this very program, wherever that lies, and nothing from the folder it is started in.
    source = str(Path(matchgraph.__file__).resolve().parents[1])
    paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **share, "PYTHONPATH": os.pathsep.join(paths)}
    # Read and closed when the child has ended.
    answer = tempfile.TemporaryFile()  # noqa: SIM115
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "matchgraph.ingest.runs.worker_process"],
            stdin=subprocess.PIPE,
            stdout=answer,
            stderr=stderr,
            env=environment,
            # Ctrl-C then goes to the parent alone, which hands it on.
            start_new_session=True,
        )
    assert process.stdin is not None
    line = json.dumps(order(settings, ids, without, options, share)).encode() + b"\n"
    try:
        # Not closed: its end tells the child that the parent is gone.
        process.stdin.write(line)
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it died already, which the next look at it shows
    return Child(process, log, answer)


def order(
    settings: Settings,
    ids: Sequence[str],
    without: Sequence[str],
    options: WorkerOptions,
    share: Mapping[str, str],
) -> dict[str, Any]:
    """Return the order for a child, JSON-ready; see `ingest.runs.worker_process`.

    Args:
        settings: which graph, and the data folder.
        ids: the runs in the order of preference.
        without: runs to leave alone.
        options: how to work.
        share: the child's environment variables.
    """
    if GPU_VARIABLE in share:
        # The one GPU that the child sees has number 0 there, whatever it has here.
        options = replace(options, device=options.device.partition(":")[0])
    return {
        "settings": {**asdict(settings), "home": str(settings.home)},
        "ids": list(ids),
        "without": list(without),
        "options": asdict(options),
    }


def last_words(log: Path) -> str:
    """Return the last lines of a worker's log as one."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return " | ".join(lines[-LOG_LINES:]) or "none"
