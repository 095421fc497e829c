"""Loading diffusers pipelines from local folders: safetensors only, nothing fetched, nothing executed."""

from __future__ import annotations

import gc
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.training.config import PRECISIONS
from matchgraph.training.errors import BadPipeline, InvalidConfig, UnsafeWeights, first_line
from matchgraph.training.files import files_below, folders_hash
from matchgraph.training.pipelines.families import family_of

if TYPE_CHECKING:
    import torch

    from matchgraph.training.pipelines.families.base import Family

# Formats that torch and others unpickle: opening one can run any code.
PICKLED_SUFFIXES = frozenset({".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})
# Where a component's class may come from. Anything else would be code in the folder itself.
TRUSTED_LIBRARIES = frozenset({"diffusers", "transformers"})
# Blackens pictures it takes for unsafe, which would be measured as the model's failure.
SAFETY_CHECKER = "safety_checker"
# A file's or shard's name, with the variant that diffusers and transformers put into it.
WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|model)(\.(?P<variant>\w+))?(-\d+-of-\d+)?(\.(?P<older>\w+))?\.safetensors"
)


def read_model_index(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a pipeline folder's `model_index.json`.

    Args:
        folder: a pipeline folder as diffusers' `save_pretrained` writes it.

    Raises:
        BadPipeline: no such folder, no index in it, or an index that is no JSON object.
    """
    path = Path(folder) / "model_index.json"
    if not path.parent.is_dir():
        raise BadPipeline(f"{path.parent} is no folder; give a diffusers pipeline folder.")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadPipeline(
            f"{path.parent} has no model_index.json; give a folder that save_pretrained wrote."
        ) from None
    except (OSError, ValueError) as error:
        raise BadPipeline(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(index, dict):
        raise BadPipeline(f"{path} is no JSON object.")
    return index


def check_weight_files(folder: str | os.PathLike[str]) -> None:
    """Refuse pickled weights by name, and safetensors files whose header does not fit their content.

    Only headers are read, so a file may say what it likes about its size.

    Args:
        folder: searched with all its subfolders.

    Raises:
        UnsafeWeights: a file has a pickled format's suffix, or a list of shards names one that is not beside
            it as safetensors.
        BadPipeline: a safetensors file is truncated or corrupt.
    """
    from safetensors import SafetensorError, safe_open

    for path in files_below(Path(folder)):
        suffix = path.suffix.lower()
        if suffix in PICKLED_SUFFIXES:
            raise UnsafeWeights(
                f"{path} holds pickled weights, which run code when they are opened. "
                "Convert them to safetensors and remove this file."
            )
        if suffix == ".safetensors":
            try:
                with safe_open(path, framework="numpy"):
                    pass
            except (SafetensorError, OSError) as error:
                raise BadPipeline(
                    f"{path} is no intact safetensors file: {first_line(error)}. Fetch or save it again."
                ) from None
        if path.name.endswith(".json") and ".safetensors.index." in path.name:
            _check_shards(path)


def _check_shards(index: Path) -> None:
    """Refuse a list of shards that leads elsewhere: loaders open whatever it names."""
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadPipeline(f"{index} is no list of shards; fetch or save the model again.") from None
    for shard in sorted(map(str, shards)):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise UnsafeWeights(f"{index} names {shard!r}, which is no safetensors file beside it.")
        if not (index.parent / shard).is_file():
            raise BadPipeline(f"{index} names {shard!r}, which is missing. Fetch the model again.")


def _check_complete(root: Path, family: Family, components: Iterable[str]) -> None:
    """Refuse a folder that lacks components, or has their configs alone."""
    gone, bare = [], []
    for component in components:
        folder = root / component
        if not folder.is_dir():
            gone.append(component)
        # Schedulers, tokenizers and the like have configs of other names, and no weights.
        elif (folder / "config.json").is_file() and not any(folder.glob("*.safetensors")):
            bare.append(component)
    lacking = [f"no folder {', '.join(gone)}"] if gone else []
    lacking += [f"no weights (*.safetensors) in {', '.join(bare)}"] if bare else []
    if lacking:
        raise BadPipeline(
            f"{root} cannot be loaded as a {family.pipeline_class}: it has {' and '.join(lacking)}. "
            "Fetch the whole model."
        )


def equal_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two networks of one class hold the same weights, wherever they are."""
    import torch

    if type(one) is not type(other):
        return False
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        mine[name].shape == theirs[name].shape and torch.equal(mine[name], theirs[name].to(mine[name].device))
        for name in mine
    )


def weight_variant(folder: str | os.PathLike[str], components: Iterable[str]) -> str | None:
    """Find the variant (`fp16`, `bf16`) that a pipeline folder's weights have to be asked for by.

    Plain files win: loaded in half precision they give the variant's values, and in single precision better
    ones.

    Args:
        folder: the pipeline folder.
        components: names of its subfolders.

    Returns:
        None where every component has plain weights (or none).

    Raises:
        BadPipeline: no one variant has the weights of all components that lack plain ones.
    """
    names = {
        component: [path.name for path in (Path(folder) / component).glob("*.safetensors")]
        for component in components
    }
    try:
        return shared_variant(names)
    except BadPipeline as error:
        raise BadPipeline(f"{folder}: {error}") from None


def shared_variant(files: Mapping[str, Iterable[str]]) -> str | None:
    """Do what `weight_variant` does from the names of files alone.

    Args:
        files: of each component.
    """
    needed: dict[str, set[str]] = {}
    for component, inside in files.items():
        names = [WEIGHTS.fullmatch(name) for name in inside]
        variants = {name["variant"] or name["older"] for name in names if name}
        if variants and None not in variants:
            needed[component] = variants
    if not needed:
        return None
    shared = set.intersection(*needed.values())
    if not shared:
        found = ", ".join(f"{component}: {'/'.join(sorted(names))}" for component, names in needed.items())
        raise BadPipeline(f"its weights are in variants that do not go together ({found}).")
    return sorted(shared)[0]


def load_pipeline(
    folder: str | os.PathLike[str], *, device: str = "auto", dtype: torch.dtype | None = None
) -> tuple[Any, Family]:
    """Load a pipeline and find its family.

    The safety checker of Stable Diffusion is left out: it replaces pictures by black ones, which would be
    measured as the model's own.

    Args:
        folder: a pipeline folder with `model_index.json` and safetensors weights.
        device: `auto` (a GPU where there is one), or a torch device name.
        dtype: of the weights; float32 by default.

    Returns:
        The diffusers pipeline on the device, without progress bars, and its family.

    Raises:
        BadPipeline: the folder is no pipeline, or a file in it cannot be read or does not fit.
        UnsafeWeights: it holds pickled weights.
        UnknownFamily: no family knows its pipeline class.
    """
    root = Path(folder)
    index = read_model_index(root)
    family = family_of(index)
    absent: dict[str, Any] = {}
    present: list[str] = []
    for name, entry in index.items():
        if not isinstance(entry, list):
            continue
        if len(entry) != 2 or not all(part is None or isinstance(part, str) for part in entry):
            raise BadPipeline(f"{root / 'model_index.json'}: component {name!r} is no [library, class] pair.")
        if entry == [None, None] or name == SAFETY_CHECKER:
            absent[name] = None
        elif entry[0] not in TRUSTED_LIBRARIES and tuple(entry) not in family.own_components:
            raise BadPipeline(
                f"{root / 'model_index.json'}: component {name!r} comes from {entry[0]!r}; only classes of "
                "diffusers and transformers are loaded, never code from a model folder."
            )
        elif (code := root / name / f"{entry[0]}.py").exists():
            # diffusers would take the class from this file.
            raise UnsafeWeights(f"{code} is code in a model folder, which is never run; remove it.")
        else:
            present.append(name)
    check_weight_files(root)
    _check_complete(root, family, present)
    variant = weight_variant(root, present)

    import diffusers
    import torch

    target = choose_device(device)
    if SAFETY_CHECKER in absent:
        absent["requires_safety_checker"] = False
    try:
        with quiet_libraries():
            pipe = getattr(diffusers, family.pipeline_class).from_pretrained(
                root,
                dtype=dtype or torch.float32,
                use_safetensors=True,
                local_files_only=True,
                variant=variant,
                **family.load_options,
                **absent,
            )
            # In here as well, because half precision on a CPU is warned of.
            pipe = pipe.to(target)
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError, ImportError) as error:
        problem = first_line(error)
        raise BadPipeline(f"{root} cannot be loaded as a {family.pipeline_class}: {problem}") from error
    family.settle(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe, family


class LoadedPipeline:
    """A pipeline kept in memory to be fine-tuned and sampled several times; a context manager that frees it.

    Fine-tuning and sampling take their adapters off again, so one run leaves no trace in the next.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, device: str = "auto", precision: str = "fp32"
    ) -> None:
        """Load the pipeline.

        Args:
            folder: see `load_pipeline`.
            device: `auto` or a torch device name.
            precision: a key of `PRECISIONS`, of all weights.

        Raises:
            InvalidConfig: unknown precision or device.
            BadPipeline: see `load_pipeline`.
        """
        import torch

        if precision not in PRECISIONS:
            raise InvalidConfig(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
        self.folder = Path(folder)
        self.precision = precision
        self.device = choose_device(device)
        self.pipe, self.family = load_pipeline(
            folder, device=device, dtype=getattr(torch, PRECISIONS[precision])
        )

    def weights_hash(self) -> str:
        """SHA-256 of all files of the folder's components: equal hashes draw equal images."""
        index = read_model_index(self.folder)
        return folders_hash(self.folder, [name for name, entry in index.items() if isinstance(entry, list)])

    def check_resolution(self, resolution_px: int) -> None:
        """Refuse image sizes that do not divide into whole latents and patches.

        Raises:
            InvalidConfig: `resolution_px` is no multiple of the pipeline's unit.
        """
        unit = self.family.size_unit_px(self.pipe)
        if resolution_px % unit:
            raise InvalidConfig(
                f"resolution_px must be a multiple of {unit} for {self.folder.name}, got {resolution_px}."
            )

    def close(self) -> None:
        """Drop the pipeline and give its memory back."""
        import torch

        self.pipe = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def __enter__(self) -> LoadedPipeline:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextmanager
def opened(
    model: str | os.PathLike[str] | LoadedPipeline, *, device: str, precision: str
) -> Iterator[LoadedPipeline]:
    """Use a loaded pipeline as it stands, or load one from its folder for the time being.

    Args:
        model: the one or the other.
        device: where a folder is loaded to; a loaded pipeline stays where it is.
        precision: a key of `PRECISIONS`.

    Raises:
        InvalidConfig: a loaded pipeline has another precision.
    """
    if isinstance(model, LoadedPipeline):
        if model.precision != precision:
            raise InvalidConfig(
                f"The pipeline is loaded in {model.precision}, the configuration asks for {precision}."
            )
        yield model
        return
    with LoadedPipeline(model, device=device, precision=precision) as loaded:
        yield loaded


def choose_device(device: str) -> torch.device:
    """Turn a device name into a torch device; `auto` is a GPU where there is one, else the CPU.

    Raises:
        InvalidConfig: there is no such device on this machine.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidConfig(f"Device {device!r} cannot be used here: {first_line(error)}") from None
    return chosen


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No progress bars and warnings of diffusers and transformers inside; as they were after."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, progress) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if progress:
                library.enable_progress_bar()
