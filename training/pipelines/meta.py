"""Pipelines built from their configs alone, on torch's meta device: no weights are read."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matchgraph.training.errors import BadPipeline, CannotProfile, first_line
from matchgraph.training.pipelines.controlnet import steered
from matchgraph.training.pipelines.families import ALIASES, family_of
from matchgraph.training.pipelines.loading import UNUSED_COMPONENTS

# Turn text into tokens, pictures into other models' inputs, or filter pictures: none of them is counted.
UNBUILT = ("tokenizer", "image_processor", *UNUSED_COMPONENTS)


class MetaBuilder:
    """Builds the pipeline of a folder on the meta device.

    Args:
        folder: with model_index.json and its components' configs.

    Attributes:
        notes: what could not be taken into account, one sentence each.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []

    def build(self, index: Mapping[str, Any]) -> Any:
        """Build the pipeline.

        Args:
            index: the folder's `model_index.json`.

        Raises:
            BadPipeline: a config is missing or cannot be read.
            CannotProfile: its classes are not in this diffusers or transformers.
        """
        import diffusers

        class_name = str(index.get("_class_name"))
        if class_name in ALIASES:
            # As such folders are drawn.
            class_name = family_of(index).pipeline_class
        pipeline_class: Any = getattr(diffusers, class_name, None)
        if not (inspect.isclass(pipeline_class) and issubclass(pipeline_class, diffusers.DiffusionPipeline)):
            raise CannotProfile(
                f"{self.folder}: this diffusers ({diffusers.__version__}) has no pipeline {class_name!r}."
            )
        components: dict[str, Any] = {}
        expected = inspect.signature(pipeline_class.__init__).parameters
        for name, parameter in expected.items():
            entry = index.get(name)
            if name == "self" or (not isinstance(entry, list) and parameter.default is not parameter.empty):
                # A flag of the pipeline: as its index has it, or its default.
                if name in index:
                    components[name] = entry
            elif name == "scheduler":
                components[name] = self._scheduler(entry, parameter.annotation)
            elif name.startswith(UNBUILT) or entry in ([None, None], None):
                components[name] = None
            else:
                components[name] = self._network(name, entry)
        if "requires_safety_checker" in expected:
            components["requires_safety_checker"] = False
        if "add_watermarker" in expected:
            components["add_watermarker"] = False
        for name in expected:
            encoder = components.get(name.replace("tokenizer", "text_encoder"))
            if name.startswith("tokenizer") and encoder is not None:
                components[name] = self._tokenizer(name, index.get(name), encoder)
        pipe: Any = pipeline_class(**components)
        # As of one that was loaded; models of few steps are known by it.
        pipe.register_to_config(_name_or_path=str(self.folder))
        if "complex_human_instruction" in inspect.signature(pipeline_class.__call__).parameters:
            self._count_instruction(index.get("tokenizer"), pipe.tokenizer)
        return pipe

    def steered(self, pipe: Any, index: Mapping[str, Any], controlnet: Mapping[str, Any]) -> Any:
        """The pipeline with a ControlNet of this configuration."""
        import diffusers
        import torch

        with torch.device("meta"):
            network = diffusers.ControlNetModel.from_config(dict(controlnet))
        return steered(pipe, network.eval().requires_grad_(False), family_of(index))

    def _network(self, name: str, entry: object) -> Any:
        import torch
        import transformers

        network_class: Any = self._class(name, entry)
        config = self._config(self.folder / name / "config.json")
        with torch.device("meta"):
            if issubclass(network_class, transformers.PreTrainedModel):
                # A network that takes a device would ignore the surrounding one.
                takes_device = "device" in inspect.signature(network_class.__init__).parameters
                options = {"device": "meta"} if takes_device else {}
                network = network_class(network_class.config_class.from_dict(config), **options)
            elif hasattr(network_class, "from_config"):
                network = network_class.from_config(config)
            else:
                raise CannotProfile(
                    f"{self.folder}: {name} is a {network_class.__name__}, which is not a network."
                )
        # Some configs state the precision of their weights, and mixed ones do not multiply.
        return network.to(torch.float32).eval().requires_grad_(False)

    def _scheduler(self, entry: object, annotation: object) -> Any:
        import diffusers

        path = self.folder / "scheduler" / "scheduler_config.json"
        config = self._config(path) if path.is_file() else {}
        if isinstance(entry, list) and entry != [None, None]:
            return self._class("scheduler", entry).from_config(config)
        self.notes.append("the pipeline names no scheduler class, so one call a step is counted")
        stands_in = annotation if hasattr(annotation, "from_config") else diffusers.EulerDiscreteScheduler
        return stands_in.from_config(config)

    def _class(self, name: str, entry: object) -> Any:
        """A component's class, from diffusers or transformers themselves and never from a model folder."""
        import diffusers
        import transformers

        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
            raise BadPipeline(f"{self.folder / 'model_index.json'}: {name} is not a [library, class] pair.")
        library, class_name = entry
        modules = {"diffusers": diffusers, "transformers": transformers}
        # Classes that diffusers keeps beside a pipeline of its own, such as Kolors' ChatGLM.
        module = modules.get(library) or getattr(diffusers.pipelines, library, None)
        found = getattr(module, class_name, None) if inspect.ismodule(module) else None
        if not inspect.isclass(found):
            raise CannotProfile(
                f"{self.folder}: {name} is {library}.{class_name}, which these diffusers "
                f"({diffusers.__version__}) and transformers ({transformers.__version__}) do not have."
            )
        return found

    def _config(self, path: Path) -> dict[str, Any]:
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BadPipeline(
                f"{path} is missing; copy the pipeline's configs, weights are not needed."
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise BadPipeline(f"{path} cannot be read as JSON: {error}.") from None
        if not isinstance(config, dict):
            raise BadPipeline(f"{path} is not a JSON object.")
        return config

    def _tokenizer(self, name: str, entry: object, encoder: Any) -> _TokenLengths:
        limits = [getattr(encoder.config, "max_position_embeddings", None)]
        path = self.folder / name / "tokenizer_config.json"
        if isinstance(entry, list) and path.is_file():
            limits.append(self._config(path).get("model_max_length"))
        return _TokenLengths(min((limit for limit in limits if isinstance(limit, int)), default=None))

    def _count_instruction(self, entry: object, tokenizer: _TokenLengths) -> None:
        """Let the folder's own tokenizer, if there is one, say how long Sana's instruction is."""
        import transformers

        folder = self.folder / "tokenizer"
        if isinstance(entry, list) and folder.is_dir():
            try:
                real = transformers.AutoTokenizer.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
            except Exception as error:
                self.notes.append(f"the tokenizer cannot be read ({first_line(error)})")
            else:
                tokenizer.encode = real.encode  # type: ignore[method-assign]
                return
        self.notes.append(
            "no tokenizer is there to say how long the instruction before each prompt is: it is not counted"
        )


class _TokenLengths:
    """Stands for a tokenizer whose text does not matter: gives as many tokens as there is room for."""

    # Read by diffusers where it looks for tokens of textual inversion.
    added_tokens_encoder: Mapping[str, int] = {}

    def __init__(self, limit: int | None) -> None:
        # Longer than any prompt a pipeline reads, as tokenizers without a limit have it.
        self.model_max_length = limit or 10**9

    def __call__(
        self, text: str | list[str], *, padding: object = None, max_length: int | None = None, **_: object
    ) -> Any:
        import torch
        import transformers

        # Asked for unpadded text, a pipeline wants to know whether any was cut off: none was.
        length = 1 if padding == "longest" else max_length or self.model_max_length
        ids = torch.zeros(1 if isinstance(text, str) else len(text), length, dtype=torch.long)
        positions = torch.arange(length).expand_as(ids)
        return transformers.BatchEncoding(
            {"input_ids": ids, "attention_mask": torch.ones_like(ids), "position_ids": positions}
        )

    def apply_chat_template(self, chat: list[Any], *, tokenize: bool, **options: Any) -> Any:
        # A tokenizer is given one chat, and a processor of texts and pictures a list of them.
        return self(chat, **options) if tokenize else chat[-1]["content"]

    def tokenize(self, _: str) -> list[str]:
        return []

    def encode(self, _: str) -> list[int]:
        # The first and last token, which every text has.
        return [0, 0]
