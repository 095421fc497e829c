"""Loading diffusers pipelines from local folders: safetensors only, nothing fetched, nothing executed."""

from __future__ import annotations

import gc
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.drawing import PRECISIONS
from matchgraph.training.config import EXACT
from matchgraph.training.errors import (
    BadPipeline,
    InvalidConfig,
    MissingLibrary,
    UnsafeWeights,
    first_line,
    is_out_of_memory,
    memory_of,
)
from matchgraph.training.files import folders_hash
from matchgraph.training.pipelines.families import family_of
from matchgraph.training.pipelines.placement import Placement, arrange
from matchgraph.training.pipelines.quantisation import quantise
from matchgraph.training.pipelines.weight_files import check_weight_files, weight_variant

if TYPE_CHECKING:
    import torch

    from matchgraph.training.pipelines.families.base import Family

# Where a component's class may come from. Anything else would be code in the folder itself.
TRUSTED_LIBRARIES = frozenset({"diffusers", "transformers"})
# Components that no image drawn here depends on, and that are never loaded: a safety checker (which replaces
# images by black ones, and they would be measured as the model's own), and what prepares its inputs or those
# of image prompts. Many published indices name them although their folders were removed.
UNUSED_COMPONENTS = frozenset({"safety_checker", "feature_extractor", "image_encoder"})


def read_model_index(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a pipeline folder's `model_index.json`.

    Args:
        folder: a pipeline folder as diffusers' `save_pretrained` writes it.

    Raises:
        BadPipeline: no such folder, no index in it, or an index that is not a JSON object.
    """
    path = Path(folder) / "model_index.json"
    if not path.parent.is_dir():
        raise BadPipeline(f"{path.parent} is not a folder; give a diffusers pipeline folder.")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadPipeline(
            f"{path.parent} has no model_index.json; give a folder that save_pretrained wrote."
        ) from None
    except (OSError, ValueError) as error:
        raise BadPipeline(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(index, dict):
        raise BadPipeline(f"{path} is not a JSON object.")
    return index


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


def load_pipeline(
    folder: str | os.PathLike[str], *, device: str = "auto", dtype: torch.dtype | None = None
) -> tuple[Any, Family]:
    """Load a pipeline and find its family.

    `UNUSED_COMPONENTS` are left out.

    Args:
        folder: a pipeline folder with `model_index.json` and safetensors weights.
        device: `auto` (a GPU where there is one), or a torch device name.
        dtype: of the weights; float32 by default.

    Returns:
        The diffusers pipeline on the device, without progress bars, and its family.

    Raises:
        BadPipeline: the folder is not a pipeline, or a file in it cannot be read or does not fit.
        UnsafeWeights: a component has pickled weights only, or code of its own.
        UnknownFamily: no family knows its pipeline class.
        MissingLibrary: a tokenizer needs a library that is not installed.
    """
    root = Path(folder)
    index = read_model_index(root)
    family = family_of(index)
    present, absent = loaded_components(root, index, family)
    variant = _check_components(root, family, present)

    import diffusers
    import torch

    target = choose_device(device)
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
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        problem = first_line(error)
        raise BadPipeline(f"{root} cannot be loaded as a {family.pipeline_class}: {problem}") from error
    except ImportError as error:
        # As transformers reports it: a tokenizer with nothing but spiece.model needs protobuf, for one.
        named = re.search(r"requires the (\S+) library", str(error))
        what = (
            f"{named[1]}: pip install {named[1]}" if named else f"what is not installed: {first_line(error)}"
        )
        raise MissingLibrary(f"{root} cannot be loaded without {what}") from error
    family.prepare(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe, family


def loaded_components(
    root: Path, index: Mapping[str, Any], family: Family
) -> tuple[list[str], dict[str, Any]]:
    """The components that are loaded of a pipeline, and arguments of the loader for those that are not.

    Args:
        root: its folder.
        index: the content of its `model_index.json`.
        family: its family.

    Raises:
        BadPipeline: a component is from elsewhere than diffusers and transformers.
        UnsafeWeights: a component has code of its own.
    """
    absent: dict[str, Any] = {}
    present: list[str] = []
    for name, entry in index.items():
        if not isinstance(entry, list):
            continue
        if name in UNUSED_COMPONENTS:
            absent[name] = None
            continue
        if len(entry) != 2 or not all(part is None or isinstance(part, str) for part in entry):
            raise BadPipeline(
                f"{root / 'model_index.json'}: component {name!r} is not a [library, class] pair."
            )
        if entry == [None, None]:
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
    if "safety_checker" in absent:
        absent["requires_safety_checker"] = False
    return present, absent


def _check_components(root: Path, family: Family, components: Sequence[str]) -> str | None:
    """Refuse a folder unless all that is opened of it is there and safe; returns the variant to ask for."""
    gone = [component for component in components if not (root / component).is_dir()]
    if gone:
        raise BadPipeline(
            f"{root} cannot be loaded as a {family.pipeline_class}: it has no folder {', '.join(gone)}. "
            "Fetch the whole model."
        )
    # Schedulers, tokenizers and the like have configs of other names, and no weights.
    networks = [component for component in components if (root / component / "config.json").is_file()]
    variant = weight_variant(root, networks)
    for component in networks:
        check_weight_files(root / component, variant)
    if variant is not None:
        for component in components:
            for path in sorted((root / component).iterdir()):
                if "." not in path.name:
                    # diffusers takes the second part of each name there, and fails where there is none.
                    raise BadPipeline(
                        f"{path}: diffusers cannot load {variant} weights beside a name without a suffix. "
                        "Move it out of the component's folder."
                    )
    return variant


class LoadedPipeline:
    """A pipeline kept in memory to be fine-tuned and sampled several times; a context manager that frees it.

    Fine-tuning and sampling take their adapters off again, so one run leaves no trace in the next.
    """

    placement = Placement()
    quantisation = EXACT
    # The most images that are drawn at a time, where a plan of the memory says so.
    drawn_together: int | None = None

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        device: str = "auto",
        precision: str = "fp32",
        placement: Placement | None = None,
        quantisation: str = EXACT,
    ) -> None:
        """Load the pipeline.

        Args:
            folder: see `load_pipeline`.
            device: `auto` or a torch device name.
            precision: a key of `PRECISIONS`, of all weights.
            placement: where its parts are while they are not needed; all on the device by default.
            quantisation: one of `QUANTISATIONS`, of the denoiser's weights.

        Raises:
            InvalidConfig: unknown precision or device, or one that cannot quantise.
            MissingLibrary: quantisation needs one.
            BadPipeline: see `load_pipeline`.
        """
        import torch

        if precision not in PRECISIONS:
            raise InvalidConfig(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
        self.folder = Path(folder)
        self.precision = precision
        self.device = choose_device(device)
        self.placement = placement or Placement()
        self.quantisation = quantisation
        # Quantised before it is on the GPU, the denoiser never takes more there.
        later = self.placement.moves or quantisation != EXACT
        with memory_of("loading"):
            self.pipe, self.family = load_pipeline(
                folder, device="cpu" if later else device, dtype=getattr(torch, PRECISIONS[precision])
            )
            quantise(self.family.denoiser(self.pipe), quantisation, self.device)
            if later and not self.placement.moves:
                self.pipe.to(self.device)
        arrange(self.pipe, self.placement, self.device)

    def weights_hash(self) -> str:
        """SHA-256 of all files of the folder's components: equal hashes draw equal images."""
        index = read_model_index(self.folder)
        return folders_hash(self.folder, [name for name, entry in index.items() if isinstance(entry, list)])

    def check_resolution(self, resolution_px: int) -> None:
        """Refuse image sizes that do not divide into whole latents and patches.

        Raises:
            InvalidConfig: `resolution_px` is not a multiple of the pipeline's unit.
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
    model: str | os.PathLike[str] | LoadedPipeline, *, device: str, precision: str, quantisation: str = EXACT
) -> Iterator[LoadedPipeline]:
    """Use a loaded pipeline as it stands, or load one from its folder for the time being.

    Args:
        model: the one or the other.
        device: where a folder is loaded to; a loaded pipeline stays where it is.
        precision: a key of `PRECISIONS`.
        quantisation: one of `QUANTISATIONS`.

    Raises:
        InvalidConfig: a loaded pipeline has another precision or quantisation.
    """
    if isinstance(model, LoadedPipeline):
        for is_loaded, asked in ((model.precision, precision), (model.quantisation, quantisation)):
            if is_loaded != asked:
                raise InvalidConfig(
                    f"The pipeline is loaded in {is_loaded}, the configuration asks for {asked}."
                )
        yield model
        return
    with LoadedPipeline(model, device=device, precision=precision, quantisation=quantisation) as loaded:
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
