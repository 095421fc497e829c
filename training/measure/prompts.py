"""Prompts as a text encoder reads them: an embedding each, and by a CLIP one of each of their tokens."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from matchgraph.training.errors import ExtractorUnavailable, first_line
from matchgraph.training.measure.extractors import captions
from matchgraph.training.measure.extractors.clip import OpenedClip, open_weights
from matchgraph.training.products import whole_products
from matchgraph.words import count

if TYPE_CHECKING:
    import torch

    from matchgraph.training.measure.extractors.base import CaptionExtractor

BATCH = 256
# Under this owner the hub has sentence models, and no CLIP of open_clip is called so.
SENTENCE_MODELS = "sentence-transformers/"


@dataclass(frozen=True, eq=False)
class EncodedPrompts:
    """Prompts as a frozen text encoder sees them.

    Attributes:
        embeddings: of length 1; float32, (n, d).
        tokens: of a CLIP's last layer, before pooling; float32, (n, length, width). None of an encoder that
            gives none.
        mask: which positions hold tokens of the prompt, start and end included; bool, (n, length). None
            without tokens.
        cut: which prompts are longer than what is read of them; bool, (n,). None where it is not known.
        length: tokens that are read of a prompt at most; None where it is not known.
    """

    embeddings: np.ndarray
    tokens: np.ndarray | None = None
    mask: np.ndarray | None = None
    cut: np.ndarray | None = None
    length: int | None = None

    def __len__(self) -> int:
        return len(self.embeddings)

    def part(self, rows: np.ndarray) -> EncodedPrompts:
        """Some of them, by number."""
        tokens, mask, cut = (
            None if each is None else each[rows] for each in (self.tokens, self.mask, self.cut)
        )
        return EncodedPrompts(self.embeddings[rows], tokens, mask, cut, self.length)

    def notes(self) -> list[str]:
        """That the ends of some are not read."""
        if self.cut is None or not self.cut.any():
            return []
        share = f"{int(self.cut.sum()):,} of {count(len(self), 'prompt')}"
        return [
            f"longer than the {self.length} tokens that the encoder reads: {share}; their ends do not count"
        ]


class PromptEncoder(Protocol):
    """What reads prompts.

    Attributes:
        hash: of its weights and preprocessing; prompts can be compared that encoders of one hash read.
    """

    @property
    def hash(self) -> str: ...

    def encode(self, prompts: Sequence[str]) -> EncodedPrompts:
        """Encode prompts; a prompt's values do not depend on those beside it, but for rounding.

        Args:
            prompts: at least one.
        """
        ...


class SentencePrompts:
    """A model of sentence-transformers as an encoder of prompts, without tokens.

    Args:
        model: see `training.measure.extractors.captions.load`.

    Attributes:
        hash: of the model.
    """

    def __init__(self, model: CaptionExtractor) -> None:
        self.hash = model.hash
        self._model = model

    def encode(self, prompts: Sequence[str]) -> EncodedPrompts:
        """See `PromptEncoder.encode`."""
        found = self._model.features(prompts)
        found = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
        length, tokens = self._model.length, self._model.tokens
        if length is None or tokens is None:
            return EncodedPrompts(found)
        cut = np.zeros(len(prompts), dtype=bool)
        # No token has less than a byte, but for the few that mark the ends.
        if long := [number for number, prompt in enumerate(prompts) if len(prompt.encode()) + 4 > length]:
            cut[long] = np.array(tokens([prompts[number] for number in long])) > length
        return EncodedPrompts(found, cut=cut, length=length)


class ClipPrompts:
    """The text side of a CLIP model.

    Args:
        clip: the model; `load_prompt_encoder` opens one.

    Attributes:
        hash: of the CLIP; images embedded by an extractor of this hash can be compared with these prompts.
        dimension: of an embedding.
        width: of a token's.

    Raises:
        ExtractorUnavailable: the model's text encoder is of a kind whose tokens cannot be had, or its
            tokenizer cannot be loaded.
    """

    def __init__(self, clip: OpenedClip) -> None:
        import open_clip

        self.hash, self.dimension, self.device = clip.hash, clip.dimension, clip.device
        self._model = clip.model
        # CLIP keeps its text tower's layers itself, CustomTextCLIP in `text`.
        last = getattr(clip.model, "ln_final", None) or getattr(
            getattr(clip.model, "text", None), "ln_final", None
        )
        if last is None:
            raise ExtractorUnavailable(
                f"The text encoder of {clip.name} is not one of open_clip's transformers, so its tokens "
                "cannot be read. Use another CLIP."
            )
        self.width = int(last.normalized_shape[0])
        last.register_forward_hook(self._keep)
        self._seen: torch.Tensor | None = None
        # The hook keeps one call's tokens; a second thread's must not come between.
        self._alone = threading.Lock()
        try:
            self._tokenizer = open_clip.get_tokenizer(f"local-dir:{clip.folder}")
        except Exception as error:
            raise ExtractorUnavailable(
                f"The tokenizer of {clip.name} cannot be loaded: {first_line(error)}"
            ) from error

    def _keep(self, _module: Any, _arguments: Any, output: torch.Tensor) -> None:
        self._seen = output

    def encode(self, prompts: Sequence[str]) -> EncodedPrompts:
        """See `PromptEncoder.encode`."""
        parts = [self._encode(prompts[start : start + BATCH]) for start in range(0, len(prompts), BATCH)]
        *read, cuts = zip(*parts, strict=True)
        embeddings, tokens, mask = (np.concatenate(own) for own in read)
        cut = None if cuts[0] is None else np.concatenate(cuts)
        return EncodedPrompts(embeddings, tokens, mask, cut, mask.shape[1])

    def _encode(self, prompts: Sequence[str]) -> tuple[Any, ...]:
        import torch

        ids = self._tokenizer(list(prompts)).to(self.device)
        with self._alone, torch.inference_mode(), whole_products():
            embeddings = self._model.encode_text(ids, normalize=True).float().cpu().numpy()
            tokens = self._seen
        assert tokens is not None
        # The end of text has the largest number of all tokens, and padding follows it.
        end = ids.argmax(dim=1)
        mask = torch.arange(ids.shape[1], device=ids.device) <= end[:, None]
        return embeddings, tokens.float().cpu().numpy(), mask.cpu().numpy(), self._cut(prompts, ids)

    def _cut(self, prompts: Sequence[str], ids: torch.Tensor) -> np.ndarray | None:
        """Which prompts go on behind the tokens that are read; None where the padding does not tell."""
        length = ids.shape[1]
        empty, filled = self._tokenizer(["", "a " * 2 * length], context_length=length + 1)
        padding = empty[-1]
        # Where the end of text is the padding as well (SigLIP), the token before it tells.
        place = next((place for place in (-1, -2) if filled[place] != padding), None)
        if place is None:
            return None
        cut = np.zeros(len(prompts), dtype=bool)
        full = np.flatnonzero((ids[:, place].cpu() != padding).numpy())
        if len(full):
            longer = self._tokenizer([prompts[row] for row in full.tolist()], context_length=length + 1)
            # A longer reading has more than padding there.
            cut[full] = (longer[:, place] != padding).numpy()
        return cut


def load_prompt_encoder(weights: str | os.PathLike[str], *, device: str = "auto") -> PromptEncoder:
    """Load what reads prompts: the text side of a CLIP, or a sentence model.

    Args:
        weights: a folder in open_clip's layout, MODEL/TAG of a CLIP with safetensors weights, a folder as
            sentence-transformers writes it, or sentence-transformers/NAME.
        device: `auto` or a torch device name.

    Raises:
        ExtractorUnavailable: the weights or the tokenizer cannot be had or cannot be read.
        MissingLibrary: sentence-transformers is needed, and not installed.
    """
    if (Path(weights) / captions.MODULES_FILE).is_file() or str(weights).startswith(SENTENCE_MODELS):
        return SentencePrompts(captions.load(str(weights), device))
    return ClipPrompts(open_weights(weights, device))
