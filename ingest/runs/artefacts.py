"""What runs leave on disk: a folder for each run, in it one for each claim, in that a checkpoint.

Each claim has a folder of its own, so a worker that lost its claim cannot overwrite another's files.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from matchgraph.ingest.errors import UnknownRun
from matchgraph.ingest.runs.entries import CANCELLED, DONE, Run
from matchgraph.ingest.runs.owner import machine_id
from matchgraph.training.files import file_hash

RUNS_FOLDER = "runs"
CHECKPOINT_FOLDER = "checkpoint"
RECORD_FILE = "record.json"
RUN_ID = re.compile(r"[0-9a-f]{16}")
CLAIM = re.compile(r"claim-([0-9]+)")


def run_folder(home: Path, run: str) -> Path:
    """Return the folder of a run.

    Raises:
        UnknownRun: this is not a run's id; a path must not be made of it.
    """
    if not RUN_ID.fullmatch(run):
        raise UnknownRun(f"{run!r} is not a run's id, which has 16 hexadecimal digits.")
    return home / RUNS_FOLDER / run


def claim_folder(home: Path, run: str, fence: int) -> Path:
    """Return the folder of one claim of a run."""
    return run_folder(home, run) / f"claim-{fence}"


def has_checkpoint(home: Path, run: str) -> bool:
    """Whether an earlier claim of a run left a checkpoint on this machine."""
    return any(_holds_something(folder / CHECKPOINT_FOLDER) for folder in _claims(run_folder(home, run)))


def carry_checkpoint(out: Path) -> Path | None:
    """Bring the checkpoint of the newest earlier claim that left one on this machine into a claim's folder.

    So each claim's checkpoint holds all that is known of the run, also where the claim ends before it adds
    anything. The earlier one stays as it is: its files are linked, and only ever replaced whole.

    Args:
        out: the folder of the current claim.

    Returns:
        The claim's checkpoint folder; None where there was nothing to bring, and the folder is empty.
    """
    checkpoint, scratch = out / CHECKPOINT_FOLDER, out / f".{CHECKPOINT_FOLDER}"
    found = [
        (_number(folder), folder / CHECKPOINT_FOLDER)
        for folder in _claims(out.parent)
        if _number(folder) < _number(out) and _holds_something(folder / CHECKPOINT_FOLDER)
    ]
    if not found:
        checkpoint.mkdir(parents=True, exist_ok=True)
        return None
    shutil.rmtree(out, ignore_errors=True)
    scratch.mkdir(parents=True)
    for file in max(found)[1].iterdir():
        if file.is_file() and not file.name.startswith("."):
            _link(file, scratch / file.name)
    scratch.rename(checkpoint)
    return checkpoint


def _link(file: Path, target: Path) -> None:
    try:
        target.hardlink_to(file)
    except OSError:
        # Some file systems have no links.
        shutil.copyfile(file, target)


def keep_checkpoint(out: Path) -> None:
    """Remove all that a claim left but its checkpoint; where there is none, the whole folder."""
    checkpoint = out / CHECKPOINT_FOLDER
    if not _holds_something(checkpoint):
        shutil.rmtree(out, ignore_errors=True)
        return
    for entry in out.iterdir():
        if entry == checkpoint:
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def remove_run(home: Path, run: str) -> None:
    """Remove all that claims of a run left on this machine."""
    shutil.rmtree(run_folder(home, run), ignore_errors=True)


def remove_all_but(out: Path) -> None:
    """Remove what other claims of the same run left behind, and the checkpoint of this one, which is done."""
    for folder in _claims(out.parent):
        shutil.rmtree(out / CHECKPOINT_FOLDER if folder == out else folder, ignore_errors=True)


def sweep(home: Path, runs: Iterable[Run]) -> None:
    """Remove what claims of ended runs left here: all of a cancelled run, of one that is done all but the
    folder with the adapter.
    """
    for run in runs:
        if run.status == CANCELLED:
            remove_run(home, run.id)
        elif run.status == DONE:
            kept = (home / str(run.properties.get("adapter"))).parent
            for folder in _claims(run_folder(home, run.id)):
                shutil.rmtree(folder / CHECKPOINT_FOLDER if folder == kept else folder, ignore_errors=True)


def has_artefact(run: Run, home: Path) -> bool:
    """Say whether a finished run's adapter is there, unchanged; on another machine it is taken on trust."""
    if run.properties.get("machine") != machine_id():
        return True
    adapter = home / str(run.properties.get("adapter"))
    return adapter.is_file() and file_hash(adapter) == run.properties.get("adapter_sha256")


def _claims(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if CLAIM.fullmatch(entry.name) and entry.is_dir()]
    except FileNotFoundError:
        return []


def _number(folder: Path) -> int:
    match = CLAIM.fullmatch(folder.name)
    return int(match[1]) if match else 0


def _holds_something(folder: Path) -> bool:
    # A name that begins with a dot is one that was not written to its end.
    return folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir())
