"""Models by their name on the Hugging Face hub: found in the hub's cache on this machine, or fetched into it.

Only what is loaded here is fetched: configurations, tokenizers and safetensors of the components that a
pipeline's `model_index.json` names, in one precision. Pickled weights, code, other frameworks' files and the
single-file checkpoints at a repository's root never are. The cache is the hub's own, so what other tools
fetched is found, and what is fetched here they find.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from matchgraph.training.errors import BadPipeline, ModelUnavailable, TrainingError, first_line
from matchgraph.training.pipelines.loading import (
    PICKLED_SUFFIXES,
    SAFETY_CHECKER,
    WEIGHTS,
    read_model_index,
    shared_variant,
    weight_variant,
)

HUB_TIMEOUT_S = 5.0
INDEX = "model_index.json"
LORA_FILE = "pytorch_lora_weights.safetensors"
# What a name looks like; a path that begins in the root, the home or the working folder is none.
NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
# A mistyped path of such a file is no name, and nobody is to be asked for it.
FILE_SUFFIXES = PICKLED_SUFFIXES | {".safetensors", ".csv"}
# Of a component's folder, beside its weights.
KEPT_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja"})
CONFIGS = ("config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json")
# A tokenizer has one of these; the first of a byte-level one goes with its merges.
VOCABULARIES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("tokenizer.model",),
)
SHARD = re.compile(r".*-\d+-of-\d+(\.\w+)?\.safetensors")
SHARDS_INDEX = re.compile(
    r"(diffusion_pytorch_model|model)(\.(?P<variant>\w+))?\.safetensors\.index(\.(?P<older>\w+))?\.json"
)
# The folder that the hub's cache keeps a repository's files of one commit in.
SNAPSHOT = re.compile(r"(models|datasets)--(?P<name>[^/]+)")
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
    """Whether a model is named as on the hub, OWNER/NAME, and is no file here and not named as one."""
    text = os.fspath(spec)
    is_file = PurePosixPath(text).suffix.lower() in FILE_SUFFIXES
    return NAME.fullmatch(text) is not None and not is_file and not os.path.lexists(text)


def folder_name(folder: str | os.PathLike[str]) -> str:
    """What the folder of a model or dataset is called.

    That is its own name; in the hub's cache, where the folder is named after a commit, it is the repository's
    name with its owner, since other owners may have models of the same name.
    """
    # Not the resolved name: a link called sdxl into a download cache is the model sdxl.
    path = Path(os.path.abspath(folder))
    kept = SNAPSHOT.fullmatch(path.parent.parent.name) if path.parent.name == "snapshots" else None
    return path.name if kept is None else kept["name"].replace("--", "/")


def pipeline_folder(spec: str | os.PathLike[str]) -> Path:
    """Find a diffusers pipeline by its path, or by its name on the hub.

    Of a repository on the hub these are assumed: `model_index.json` at its root names the components, each in
    a folder of its name, as `save_pretrained` writes them. A copy in the cache counts when every component
    named there is whole but for the safety checker, which is never loaded here; else what is missing is
    fetched. Weights that are not pickled must be there for every component: plain ones are taken, or else
    one variant (fp16) of all that lack them.

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
                f"{name} on the hub has no {INDEX}: it is no diffusers pipeline. If it is a LoRA or a "
                f"denoiser alone, `matchgraph student TEACHER {name}` makes one of it."
            )
        index = read_model_index(_fetched(name, [INDEX]))
        folder = _fetched(name, map(glob.escape, pipeline_files(files, index, name)))
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
    if found is not None and not _lacks_weights(found):
        return found
    with _asking(f"There is no file {name} here, and the hub's weights of that name are", WEIGHTS_ADVICE):
        files = _listed(name)
        if LORA_FILE in files:
            return _fetched(name, [LORA_FILE]) / LORA_FILE
        weights = [file for file in files if WEIGHTS.fullmatch(file)]
        if "config.json" in files and weights:
            wanted = ["config.json", *_of_variant(files, shared_variant({name: weights}))]
            return _fetched(name, map(glob.escape, wanted))
    raise ModelUnavailable(
        f"{name} on the hub has neither {LORA_FILE} nor a denoiser's config.json and safetensors at its root"
        f"{_and_pickles(files)}. Fetch the file that you mean and give its path."
    )


def _local(spec: str | os.PathLike[str], kind: str) -> Path | None:
    """What is meant, if it is here; None of a name on the hub."""
    if os.path.lexists(spec):
        return Path(spec)
    if is_hub_name(spec):
        return None
    raise ModelUnavailable(
        f"{os.fspath(spec)} is no {kind} here, and no name on the hub (OWNER/NAME) either; give one of them."
    )


def pipeline_files(files: Sequence[str], index: Mapping[str, Any], name: str) -> list[str]:
    """Choose what of a repository is fetched.

    Args:
        files: all that it has, by their paths in it.
        index: its `model_index.json`.
        name: of the repository, for errors.

    Returns:
        The paths of `model_index.json`, of the components' configurations and tokenizers' files, and of their
        weights in one precision.

    Raises:
        ModelUnavailable: a component has no safetensors, or the components' variants do not go together.
    """
    # Some published pipelines have a scheduler that their index does not name; their cost depends on it.
    parts: dict[str, list[str]] = {component: [] for component in [*named_components(index), "scheduler"]}
    for file in files:
        component, _, rest = file.partition("/")
        if component in parts and "/" not in rest:
            parts[component].append(rest)
    networks = {component: inside for component, inside in parts.items() if "config.json" in inside}
    for component, inside in networks.items():
        if not any(WEIGHTS.fullmatch(file) for file in inside):
            raise ModelUnavailable(
                f"{name} on the hub has no safetensors of its {component}{_and_pickles(inside)}. "
                "Take another model, or convert it and give the folder's path."
            )
    try:
        variant = shared_variant(networks)
    except BadPipeline as error:
        raise ModelUnavailable(f"{name} on the hub: {error}") from None
    wanted = [INDEX]
    for component, inside in parts.items():
        plain = component not in networks or shared_variant({component: inside}) is None
        kept = _of_variant(inside, None if plain else variant)
        kept += [
            file
            for file in inside
            if PurePosixPath(file).suffix in KEPT_SUFFIXES and ".safetensors.index" not in file
        ]
        wanted += [f"{component}/{file}" for file in sorted(kept)]
    return wanted


def named_components(index: Mapping[str, Any]) -> list[str]:
    """The components that a `model_index.json` names and that are loaded here."""
    return [
        name
        for name, entry in index.items()
        if isinstance(entry, list) and entry != [None, None] and name != SAFETY_CHECKER
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
    return (folder / "config.json").is_file() and _lacks_weights(folder)


def _lacks_weights(folder: Path) -> bool:
    """Whether a network's folder has no safetensors, or not all shards of those it has."""
    indices = list(folder.glob("*.safetensors.index*.json"))
    files = [path.name for path in folder.glob("*.safetensors") if path.is_file()]
    if any(SHARD.fullmatch(name) for name in files) and not indices:
        return True
    for index in indices:
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return True
        if not shards <= set(files):
            return True
    return not files


def _of_variant(files: Sequence[str], variant: str | None) -> list[str]:
    """Of a component's files the weights of one variant, and the list of their shards."""
    found = []
    for file in files:
        named = WEIGHTS.fullmatch(file) or SHARDS_INDEX.fullmatch(file)
        if named and (named["variant"] or named["older"]) == variant:
            found.append(file)
    return found


def _and_pickles(files: Sequence[str]) -> str:
    pickled = any(PurePosixPath(file).suffix.lower() in PICKLED_SUFFIXES for file in files)
    return "; its pickled weights, which run code when they are opened, are never fetched" if pickled else ""


@contextmanager
def _asking(subject: str, advice: str, failure: type[TrainingError] = ModelUnavailable) -> Iterator[None]:
    """Turn whatever the hub's client makes of a missing network, repository or permission into one line."""
    import huggingface_hub
    from huggingface_hub import constants

    try:
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
