"""After every fault the graph ends as a clean run leaves it: nothing is RUNNING, no edge is there twice.

Workers are real processes that fine-tune a tiny pipeline; `trapped.py` says how one is made to fail at a
given call.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from matchgraph.graphdb.connection import Settings, connect
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.graphdb.server.managed import ManagedServer
from matchgraph.ingest.runs.entries import DONE, FAILED, QUEUED, RUNNING
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.worker import CACHE_FOLDER
from matchgraph.ingest.tables.datasets import ingest_image_folders
from matchgraph.ingest.tables.models import ingest_models
from tests.faults.trapped import matchgraph
from tests.ingest.conftest import write_images
from tests.ingest.dump import RUN_TIMES, dump, same_but_for_rounding
from tests.training import tiny

pytestmark = pytest.mark.slow


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.faults.loaded"])
PATIENCE_S = 600
STEPS, SAMPLES, BATCH = 3, 4, 2
RUN = (
    f"ingest run --device cpu --steps {STEPS} --batch-size {BATCH} --rank 2 --resolution 32"
    f" --samples {SAMPLES} --sampling-steps 2 --sampling-batch {BATCH}"
).split()


class Worker:
    """`matchgraph` as a process of its own, forked from one that has loaded the libraries already.

    Args:
        home: the data folder.
        probe: folder of the probe model.
        arguments: of the command line.
        trap: see `tests.faults.trapped`.
    """

    def __init__(self, home: Path, probe: Path, arguments: Sequence[str], trap: str | None) -> None:
        with tempfile.NamedTemporaryFile(delete=False) as file:
            self._said = Path(file.name)
        self._process = FORKS.Process(
            target=matchgraph, args=(list(arguments), trap, str(home), str(probe), file.name), daemon=True
        )
        self._process.start()

    def end(self) -> tuple[int, str]:
        """Wait for the end; gives the exit status, negative for a signal, and what was said."""
        self._process.join(PATIENCE_S)
        status = self._process.exitcode
        said = self._said.read_text()
        assert status is not None, f"still running after {PATIENCE_S} s: {said}"
        self._said.unlink()
        return status, said

    def wait_until_stopped(self) -> None:
        def stopped() -> bool:
            assert self._process.exitcode is None, self._said.read_text()
            return psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED

        wait_for(stopped)

    def continue_(self) -> None:
        self.signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()


class Scene:
    """A graph with one model and one dataset, and what can befall the one run there is.

    Args:
        home: the data folder, in which artefacts lie.
        folder: holds the model, the dataset and the probe.
        runner: the graph's connection.
    """

    def __init__(self, home: Path, folder: Path, runner: Runner) -> None:
        self.home, self.folder, self.runner = home, folder, runner
        self.graph, self.ledger = MatchingGraph(runner), Ledger(runner)
        self.images = folder / "images"

    def fill(self) -> None:
        from matchgraph.training.measure.extractors import load_clip

        for name in ("runs", "pretrained"):
            shutil.rmtree(self.home / name, ignore_errors=True)
        self.graph.clear()
        ingest_models(self.graph, self.folder / "models")
        ingest_image_folders(self.graph, self.images, load_clip(str(self.folder / "probe"), device="cpu"))

    def start(self, *arguments: str, trap: str | None = None) -> Worker:
        """Start `matchgraph`, with a trap or without."""
        return Worker(self.home, self.folder / "probe", arguments or RUN, trap)

    def run(self, *arguments: str, trap: str | None = None) -> tuple[int, str]:
        """Run `matchgraph` to its end; gives its exit status and what it said."""
        return self.start(*arguments, trap=trap).end()

    def status(self) -> str:
        (run,) = self.ledger.runs()
        return run.status

    def finished(self) -> list[str]:
        """The graph, after checking that it holds one finished run and one edge."""
        assert self.status() == DONE
        edges = self.runner.read("MATCH (:Model)-[e:PERFORMS]->(:Dataset) RETURN count(e) AS n")
        assert edges == [{"n": 1}]
        return dump(self.runner, without=RUN_TIMES)

    def edges(self) -> int:
        return self.runner.read("MATCH (:Model)-[e:PERFORMS]->(:Dataset) RETURN count(e) AS n")[0]["n"]

    def weights(self) -> list[str]:
        """Names of all files with trained weights."""
        names = {"pytorch_lora_weights.safetensors", "checkpoint.safetensors"}
        return sorted(path.name for path in (self.home / "runs").rglob("*") if path.name in names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    tiny.save("sd", folder / "models" / "tiny")
    write_images(folder / "images" / "cats", 0, ["a cat", None, "cats", "c"])
    tiny.save_clip(folder / "probe")
    return folder


@pytest.fixture(scope="module")
def clean(settings: Settings, runner: Runner, folder: Path) -> list[str]:
    """The graph that a run gives when nothing befalls it."""
    scene = Scene(settings.home, folder, runner)
    scene.fill()
    status, said = scene.run()
    assert status == 0, said
    return scene.finished()


@pytest.fixture
def scene(
    graph: MatchingGraph,  # noqa: ARG001
    settings: Settings,
    runner: Runner,
    folder: Path,
    clean: list[str],  # noqa: ARG001
) -> Scene:
    scene = Scene(settings.home, folder, runner)
    scene.fill()
    return scene


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# The commit of the transaction that completes a run.
COMMIT = (
    "matchgraph.graphdb.repository:MatchingGraph.result_statements:1:then=matchgraph.graphdb.runner:Runner.write_many:1:"
    "then=neo4j._sync.work.transaction:TransactionBase._commit:1:"
)
# Before or after which call the worker dies.
MOMENTS = {
    "claimed": "matchgraph.ingest.runs.ledger:Ledger.claim_next:1:killed",
    "training": "torch.nn.utils:clip_grad_norm_:3:kill",
    "scoring": "matchgraph.training.measure.scoring:Scorer.scores:2:killed",
    "recording": "matchgraph.ingest.runs.ledger:Ledger.complete:1:kill",
    "committing": COMMIT + "kill",
    "committed": COMMIT + "killed",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_killed_while(scene: Scene, clean: list[str], moment: str) -> None:
    status, said = scene.run(trap=MOMENTS[moment])
    assert status == -signal.SIGKILL, said
    assert scene.status() == (DONE if moment == "committed" else RUNNING)
    assert scene.edges() == (moment == "committed")
    if moment == "training":
        # As after the server's clock was put back: the dead worker is known by its process.
        scene.runner.write("MATCH (r:Run) SET r.lease_until = timestamp() + 100 * 86400000")
    status, said = scene.run()
    assert status == 0, said
    assert scene.finished() == clean
    (claim,) = (scene.home / "runs").glob("*/claim-*")
    assert {path.suffix for path in claim.iterdir()} >= {".safetensors", ".json", ".png", ".html"}


DRAW = "matchgraph.training.pipelines.families.base:Family.sample"
KEEP = "matchgraph.training.measure.drawn:DrawnRows.add"
STEP = "torch.nn.utils:clip_grad_norm_"
IN_MID_WRITE = f"{KEEP}:1:then=matchgraph.training.files:publish:1:kill"
# How one worker after another is killed, each of which goes on where the one before was: before fine-tuning,
# in it and after it.
ONE_AFTER_ANOTHER = (
    f"{DRAW}:1:killed",
    IN_MID_WRITE,
    f"{KEEP}:2:kill",
    f"{STEP}:1:killed",
    f"{STEP}:2:kill",
    f"{STEP}:2:killed",
    "diffusers:StableDiffusionPipeline.save_lora_weights:1:killed",
    f"{DRAW}:1:killed",
    f"{KEEP}:1:killed",
    IN_MID_WRITE,
)


def test_workers_killed_at_every_image_shard_and_step(scene: Scene, clean: list[str], tmp_path: Path) -> None:
    drawn, made = tmp_path / "drawn", tmp_path / "made"
    counted = f"{DRAW}:1:count={drawn} and {STEP}:1:count={made}"
    command = (*RUN, "--checkpoint-steps", "1")
    for moment in ONE_AFTER_ANOTHER:
        status, said = scene.run(*command, trap=f"{counted} and {moment}")
        assert status == -signal.SIGKILL, (moment, said)
    status, said = scene.run(*command, trap=counted)
    assert status == 0, said
    assert scene.finished() == clean
    # Five workers were killed with a batch that was not kept yet, and two with a step.
    assert drawn.stat().st_size == 2 * SAMPLES // BATCH + 5
    assert made.stat().st_size == STEPS + 2


def test_two_workers_that_race_for_one_run(scene: Scene, clean: list[str]) -> None:
    workers = [scene.start(), scene.start()]
    ends = [worker.end() for worker in workers]
    assert [status for status, _ in ends] == [0, 0], ends
    (run,) = scene.ledger.runs()
    assert (run.attempt, run.fence) == (1, 1)
    assert scene.finished() == clean


def test_a_zombie_that_returns_after_its_lease_expired(scene: Scene, clean: list[str]) -> None:
    zombie = scene.start(trap="matchgraph.ingest.runs.ledger:Ledger.complete:1:stop")
    try:
        zombie.wait_until_stopped()
        # Stands for the minute that the lease takes to expire.
        scene.runner.write("MATCH (r:Run) SET r.lease_until = timestamp() - 1")
        status, said = scene.run()
        assert status == 0, said
        assert scene.finished() == clean
        before = sorted((scene.home / "runs").rglob("*"))
        zombie.continue_()
        status, said = zombie.end()
    finally:
        zombie.kill()
    assert status == 0, said
    assert "taken by another worker" in said
    assert scene.finished() == clean
    assert sorted((scene.home / "runs").rglob("*")) == before


# While features of images are kept, a checkpoint, the adapter and the record.
FULL_AT = (
    f"{KEEP}:2:raise",
    "matchgraph.training.tune.session:write_checkpoint:1:raise",
    "diffusers:StableDiffusionPipeline.save_lora_weights:1:raise",
    "matchgraph.ingest.runs.recording:write_json:1:raise",
)


def test_a_full_disk(scene: Scene, clean: list[str], tmp_path: Path) -> None:
    drawn = tmp_path / "drawn"
    counted = f"{DRAW}:1:count={drawn}"
    command = (*RUN, "--checkpoint-steps", "1")
    for moment in FULL_AT:
        status, said = scene.run(*command, trap=f"{counted} and {moment}")
        assert (status, said.count("Traceback")) == (2, 0), (moment, said)
        assert "No space left on device" in said
        assert (scene.status(), scene.edges()) == (QUEUED, 0)
    # Without room for encodings, a run only takes longer.
    shutil.rmtree(scene.home / CACHE_FOLDER)
    full = "matchgraph.training.pipelines.cache:write_tensors:1:raise"
    status, said = scene.run(*command, trap=f"{counted} and {full}")
    assert status == 0, said
    assert scene.finished() == clean
    # The one batch that could not be kept was drawn again.
    assert drawn.stat().st_size == 2 * SAMPLES // BATCH + 1


DECODE = "diffusers.models.autoencoders.vae:Decoder.forward"
LOAD = "matchgraph.training.pipelines.loading:load_pipeline"
# What befalls one worker after another, and what each says: of numbers that are none, and of memory that
# lacks however often the run is begun.
LASTING = {
    f"{DECODE}:2:nan": "2 of 2 images have pixels that are infinite or NaN",
    "torch.nn.functional:mse_loss:3:nan": "At step 3 the loss was nan",
    f"{LOAD}:1:lacks": "Out of memory in loading: CUDA out of memory.",
    "matchgraph.training.pipelines.families.base:Family.loss:2:lacks": "Out of memory in training: ",
    # In training it passes, and the same worker takes the run again.
    f"{STEP}:2:lack and {DRAW}:1:lacks": "Out of memory in sampling: ",
    f"{DECODE}:1:lacks": "Out of memory in sampling: ",
}
# Then the run is taken again, goes on with one image at a time, and is taken again at the second.
PASSING = (f"{LOAD}:1:lack", f"{DRAW}:1:lack", f"{DECODE}:2:lack")


def test_numbers_that_are_none_and_a_lack_of_memory(scene: Scene, clean: list[str], tmp_path: Path) -> None:
    drawn = tmp_path / "drawn"
    counted = f"{DRAW}:1:count={drawn}"
    command = (*RUN, "--retry-failed")
    for fault, message in LASTING.items():
        status, said = scene.run(*command, trap=f"{counted} and {fault}")
        assert (status, said.count("Traceback")) == (1, 0), (fault, said)
        assert message in said
        assert (scene.status(), scene.edges()) == (FAILED, 0), fault
        # What was trained as far as it came is kept for the next worker, unless it is no number.
        assert set(scene.weights()) <= ({"checkpoint.safetensors"} if ":lacks" in fault else set())
    # Nothing is tried again unasked: the same seed gives the same loss.
    assert scene.run(trap=counted)[0] == 1
    status, said = scene.run(*command, trap=" and ".join([counted, *PASSING]))
    assert status == 0, said
    found, expected = map(json.loads, scene.finished()), map(json.loads, clean)
    assert same_but_for_rounding(list(found), list(expected))
    # Kept are two batches of the pretrained model's, and three of one, two and one image. Drawn again were a
    # batch with pixels that are none, a batch and its first image in each of three attempts, and an image.
    assert drawn.stat().st_size == 2 + 3 + 1 + 3 * 2 + 1


def test_a_truncated_adapter(scene: Scene, clean: list[str]) -> None:
    assert scene.run()[0] == 0
    (adapter,) = (scene.home / "runs").rglob("pytorch_lora_weights.safetensors")
    adapter.write_bytes(adapter.read_bytes()[:-100])
    status, said = scene.run()
    assert status == 0, said
    assert scene.finished() == clean
    (adapter,) = (scene.home / "runs").rglob("pytorch_lora_weights.safetensors")
    assert scene.ledger.runs()[0].fence == 2


def test_an_image_that_is_damaged_after_registration(scene: Scene, clean: list[str]) -> None:
    image = scene.images / "cats" / "1.png"
    content = image.read_bytes()
    image.write_bytes(content[:-20])
    try:
        status, said = scene.run()
        assert status == 2, said
        assert "'cats'" in said
        assert scene.runner.read("MATCH (r:Run {status: 'RUNNING'}) RETURN r") == []
    finally:
        image.write_bytes(content)
    status, said = scene.run()
    assert status == 0, said
    assert scene.finished() == clean


def test_an_image_that_is_damaged_while_the_worker_trains(
    scene: Scene, clean: list[str], tmp_path: Path
) -> None:
    image = scene.images / "cats" / "1.png"
    content = image.read_bytes()
    half, script = tmp_path / "half.png", tmp_path / "damage.sh"
    half.write_bytes(content[: len(content) // 2])
    script.write_text(f"cp '{half}' '{image}'\n")
    try:
        status, said = scene.run(trap=f"matchgraph.training.tune.finetune:encode_dataset:1:run={script}")
        assert status == 1, said
        assert "1.png cannot be decoded" in said
        assert scene.status() == FAILED
        assert scene.edges() == 0
    finally:
        image.write_bytes(content)
    assert scene.run("ingest", "retry", "--all")[0] == 0
    status, said = scene.run()
    assert status == 0, said
    assert scene.finished() == clean


@pytest.mark.parametrize("jump_s", [86_400, -86_400])
def test_a_clock_that_jumps(scene: Scene, clean: list[str], jump_s: int) -> None:
    """The worker's clock is a day off from the middle of its run on, then it dies."""
    status, said = scene.run(
        trap=f"matchgraph.training.tune.finetune:encode_dataset:1:then=time:time:1:jump={jump_s}",
    )
    assert status == 0, said
    assert scene.finished() == clean


def test_ctrl_c_gives_the_run_back(scene: Scene, clean: list[str]) -> None:
    worker = scene.start(trap="torch.nn.utils:clip_grad_norm_:2:stop")
    try:
        worker.wait_until_stopped()
        worker.signal(signal.SIGINT)
        worker.continue_()
        status, said = worker.end()
    finally:
        worker.kill()
    assert status != 0
    assert "Stopping at the next step" in said
    assert "Traceback" not in said
    (run,) = scene.ledger.runs()
    # That costs no attempt, and the next worker goes on from a checkpoint.
    assert (run.status, run.fence, run.attempt) == (QUEUED, 1, 0)
    assert "checkpoint.safetensors" in scene.weights()
    status, said = scene.run()
    assert status == 0, said
    assert scene.finished() == clean


def test_the_server_killed_in_mid_write(folder: Path, clean: list[str], own_server: ManagedServer) -> None:
    home = own_server.folder.parent
    settings = Settings(home=home)
    with connect(settings) as runner:
        scene = Scene(home, folder, runner)
        scene.fill()
    worker = scene.start(trap=COMMIT + "stop")
    try:
        worker.wait_until_stopped()
        state = own_server.running()
        assert state is not None
        os.kill(state.pid, signal.SIGKILL)
        wait_for(lambda: own_server.running() is None)
        worker.continue_()
        # Starts the server again, which undoes what was not committed; the worker waits for that.
        with connect(settings) as runner:
            repaired = own_server.running()
            assert repaired is not None
            assert (repaired.uri, repaired.browser) == (state.uri, state.browser)
            status, said = worker.end()
            assert status == 0, said
            assert Scene(home, folder, runner).finished() == clean
    finally:
        worker.kill()
