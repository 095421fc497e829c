"""Models by their name on the Hugging Face hub: found in the hub's cache on this machine, or fetched into it.

diffusers chooses what of a pipeline is fetched: configurations, tokenizers and safetensors of its components,
in one precision. Pickled weights, other frameworks' files and the single-file checkpoints at a repository's
root never are. The cache is the hub's own, so what other tools fetched is found, and what is fetched here
they find.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from matchgraph.certificates import system_certificates
from matchgraph.training.errors import BadDataset, BadPipeline, ModelUnavailable, TrainingError, first_line
from matchgraph.training.pipelines.loading import UNUSED_COMPONENTS, quiet_libraries, read_model_index
from matchgraph.training.pipelines.weight_files import (
    PICKLED_SUFFIXES,
    WEIGHTS,
    check_weight_files,
    opened_weights,
    shared_variant,
    weight_variant,
)

HUB_TIMEOUT_S = 5.0
INDEX = "model_index.json"
# Names the licence; diffusers does not fetch it.
CARD = "README.md"
LORA_FILE = "pytorch_lora_weights.safetensors"
# What a name looks like; a path that begins in the root, the home or the working folder is none.
NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
# A mistyped path of such a file is not a name, so the hub is not asked.
FILE_SUFFIXES = PICKLED_SUFFIXES | {".safetensors", ".csv", ".parquet", ".arrow", ".tar"}
CONFIGS = ("config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json")
# A tokenizer has one of these; the first of a byte-level one goes with its merges.
VOCABULARIES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("tokenizer.model",),
)
PIPELINE_ADVICE = (
    "Fetch it where there is a network, logged in if it is gated, or give the path of a pipeline folder."
)
WEIGHTS_ADVICE = "Fetch them where there is a network and give the path of the folder or safetensors file."


def hub_folder(
    repository: str,
    needed: Sequence[str],
    patterns: Sequence[str],
    advice: str,
    failure: type[TrainingError],
) -> Path:
    """Return the local folder of a repository on the hub, fetched where it is not in the hub's cache.

    Args:
        repository: its name.
        needed: files without which the cache is no use.
        patterns: files to fetch.
        advice: what to do instead, for the error.
        failure: the error to raise.

    Raises:
        failure: it is not in the cache and cannot be fetched.
    """
    cached = [_from_cache(repository, name, failure) for name in needed]
    if cached and all(path is not None for path in cached):
        return Path(str(cached[0]))
    with _asking(f"The weights of {repository} are", advice, failure):
        return _fetched(repository, patterns)


def is_hub_name(spec: str | os.PathLike[str]) -> bool:
    """Whether a model is named as on the hub, OWNER/NAME, and is not a file here and not named as one."""
    text = os.fspath(spec)
    is_file = PurePosixPath(text).suffix.lower() in FILE_SUFFIXES
    return NAME.fullmatch(text) is not None and not is_file and not os.path.lexists(text)


def pipeline_folder(spec: str | os.PathLike[str]) -> Path:
    """Find a diffusers pipeline by its path, or by its name on the hub.

    A copy in the cache counts when every component that is loaded here is whole; else what is missing is
    fetched, as safetensors only. Plain weights are taken where every component has them, or else one variant
    (fp16) of all that have it.

    Args:
        spec: a path, or OWNER/NAME. A path that exists is meant as such.

    Returns:
        The folder: the path itself, or the snapshot in the hub's cache.

    Raises:
        ModelUnavailable: neither here nor on the hub, or not to be had from there; says what to do.
    """
    if (here := _local(spec, "folder")) is not None:
        return here
    name = os.fspath(spec)
    found = _from_cache(name, INDEX, ModelUnavailable)
    if found is not None and not missing_components(found):
        return found
    with _asking(f"There is no folder {name} here, and the hub's model of that name is", PIPELINE_ADVICE):
        files = _listed(name)
        if INDEX not in files:
            raise ModelUnavailable(
                f"{name} on the hub has no {INDEX}: it is not a diffusers pipeline. If it is a LoRA or a "
                f"denoiser alone, `matchgraph collaborate student TEACHER {name}` makes a pipeline of it."
            )
        folder = _fetched_pipeline(name, files)
    if lacking := missing_components(folder):
        raise ModelUnavailable(f"{name} on the hub lacks {', '.join(lacking)}. {PIPELINE_ADVICE}")
    return folder


def student_weights(spec: str | os.PathLike[str]) -> Path:
    """Find a LoRA's or a denoiser's weights by their path, or by the name of their repository on the hub.

    Of a repository these are assumed, in this order: a LoRA is `pytorch_lora_weights.safetensors` at its
    root (latent-consistency/lcm-lora-sdxl); a denoiser is `config.json` and
    `diffusion_pytorch_model*.safetensors` there (latent-consistency/lcm-sdxl).

    Args:
        spec: a path, or OWNER/NAME.

    Returns:
        The file or folder.

    Raises:
        ModelUnavailable: neither here nor on the hub, not to be had from there, or nothing of the above.
    """
    if (here := _local(spec, "file or folder")) is not None:
        return here
    name = os.fspath(spec)
    found = _from_cache(name, LORA_FILE, ModelUnavailable)
    if found is not None:
        return found / LORA_FILE
    found = _from_cache(name, "config.json", ModelUnavailable)
    if found is not None and _has_weights(found):
        return found
    with _asking(f"There is no file {name} here, and the hub's weights of that name are", WEIGHTS_ADVICE):
        files = _listed(name)
        if LORA_FILE in files:
            return _fetched(name, [LORA_FILE]) / LORA_FILE
        weights = opened_weights(files, shared_variant({name: files}))
        if "config.json" in files and weights:
            return _fetched(name, ["config.json", *map(glob.escape, weights)])
    raise ModelUnavailable(
        f"{name} on the hub has neither {LORA_FILE} nor a denoiser's config.json and safetensors at its root"
        f"{_and_pickles(files)}. Fetch the file that you mean and give its path."
    )


def cached_pipeline(name: str) -> Path | None:
    """The folder of a pipeline in the hub's cache, perhaps of its configurations alone; None without one."""
    return _from_cache(name, INDEX, ModelUnavailable)


def cached_dataset(name: str | os.PathLike[str]) -> Path:
    """Find a dataset of the hub in the hub's cache on this machine; nothing is fetched.

    Args:
        name: OWNER/NAME.

    Raises:
        BadDataset: it is not in the cache.
    """
    import huggingface_hub

    repository = os.fspath(name)
    try:
        return Path(huggingface_hub.snapshot_download(repository, repo_type="dataset", local_files_only=True))
    except (OSError, ValueError):
        raise BadDataset(
            f"There is no folder {repository} here, and the hub's cache has no dataset of that name. Fetch "
            f"it with `hf download --repo-type dataset {repository}`, or give the path of a folder."
        ) from None


def _local(spec: str | os.PathLike[str], kind: str) -> Path | None:
    """What is meant, if it is here; None of a name on the hub."""
    if os.path.lexists(spec):
        return Path(spec)
    if is_hub_name(spec):
        return None
    raise ModelUnavailable(f"{os.fspath(spec)} is neither a {kind} here nor a name on the hub (OWNER/NAME).")


def named_components(index: Mapping[str, Any]) -> list[str]:
    """The components that a `model_index.json` names and that are loaded here."""
    return [
        name
        for name, entry in index.items()
        if isinstance(entry, list) and entry != [None, None] and name not in UNUSED_COMPONENTS
    ]


def missing_components(folder: Path) -> list[str]:
    """Which components of a pipeline's folder are not whole, as after a download that was broken off.

    Args:
        folder: with a `model_index.json`.

    Raises:
        BadPipeline: it has none that can be read.
    """
    components = named_components(read_model_index(folder))
    lacking = [name for name in components if _is_partial(name, folder / name)]
    if not lacking:
        try:
            weight_variant(folder, components)
        except BadPipeline:
            return components
    return lacking


def _is_partial(component: str, folder: Path) -> bool:
    if not any((folder / name).is_file() for name in CONFIGS):
        return True
    if component.startswith("tokenizer"):
        return not any(all((folder / name).is_file() for name in names) for names in VOCABULARIES)
    return (folder / "config.json").is_file() and not _has_weights(folder)


def _has_weights(folder: Path) -> bool:
    """Whether a network's folder has all the safetensors that are opened of it."""
    try:
        check_weight_files(folder, weight_variant(folder.parent, [folder.name]))
    except BadPipeline:
        return False
    return True


def _and_pickles(files: Sequence[str]) -> str:
    pickled = any(PurePosixPath(file).suffix.lower() in PICKLED_SUFFIXES for file in files)
    return "; its pickled weights, which run code when they are opened, are never fetched" if pickled else ""


@contextmanager
def _asking(subject: str, advice: str, failure: type[TrainingError] = ModelUnavailable) -> Iterator[None]:
    """Turn whatever the hub's client makes of a missing network, repository or permission into one line."""
    import huggingface_hub
    from huggingface_hub import constants

    try:
        with system_certificates():
            # The client tries again for half a minute; without a network one question is enough.
            huggingface_hub.get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
            yield
    except TrainingError:
        raise
    except Exception as error:  # the client's errors share no base across its versions
        raise failure(
            f"{subject} not on this machine and cannot be fetched ({first_line(error)}). {advice}"
        ) from None


def _listed(repository: str) -> list[str]:
    """All files of a repository."""
    import huggingface_hub

    found = huggingface_hub.HfApi().model_info(repository, timeout=HUB_TIMEOUT_S)
    return [file.rfilename for file in found.siblings or []]


def _fetched_pipeline(repository: str, files: Sequence[str]) -> Path:
    """Fetch what is loaded of a pipeline.

    Args:
        repository: its name.
        files: all that it has, by their paths in it.

    Raises:
        ModelUnavailable: a component has no safetensors, or the components' variants do not go together.
    """
    components = named_components(read_model_index(_fetched(repository, [INDEX, CARD])))
    networks = {
        component: [file.partition("/")[2] for file in files if file.startswith(f"{component}/")]
        for component in components
        if f"{component}/config.json" in files
    }
    for component, inside in networks.items():
        if not any(WEIGHTS.fullmatch(file) for file in inside):
            raise ModelUnavailable(
                f"{repository} on the hub has no safetensors of its {component}{_and_pickles(inside)}. "
                "Take another model, or convert it and give the folder's path."
            )
    try:
        variant = shared_variant(networks)
    except BadPipeline as error:
        raise ModelUnavailable(f"{repository} on the hub: {error}") from None
    from diffusers import DiffusionPipeline

    # Components that are given are not fetched.
    given = dict.fromkeys(UNUSED_COMPONENTS)
    with quiet_libraries():
        return Path(DiffusionPipeline.download(repository, use_safetensors=True, variant=variant, **given))


def _fetched(repository: str, patterns: Iterable[str]) -> Path:
    import huggingface_hub

    folder = huggingface_hub.snapshot_download(
        repository, allow_patterns=list(patterns), etag_timeout=HUB_TIMEOUT_S
    )
    return Path(folder)


def _from_cache(repository: str, name: str, failure: type[TrainingError]) -> Path | None:
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        found = huggingface_hub.try_to_load_from_cache(repository, name)
    except HFValidationError:
        raise failure(
            f"{repository!r} is neither a file or folder here nor a name on the hub (such as OWNER/MODEL)."
        ) from None
    if not isinstance(found, str):
        return None
    # The folder that the needed file's relative name counts from.
    return Path(found).parents[len(Path(name).parts) - 1]
