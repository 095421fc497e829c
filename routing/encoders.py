"""What reads prompts: an encoder of texts, or a file of embeddings that were made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.routing.errors import (
    BadEmbeddingFile,
    NoPrompts,
    NotEnoughScores,
    UnknownPrompt,
    UnusableEstimator,
)
from matchgraph.routing.table_files import is_label, read_table_file
from matchgraph.training.measure.prompts import EncodedPrompts
from matchgraph.training.prompt_files import PROMPT_FIELDS, read_prompt_file

if TYPE_CHECKING:
    from matchgraph.graphdb.prompt_models import Prompt
    from matchgraph.graphdb.prompts import PromptGraph
    from matchgraph.routing.store import Kind
    from matchgraph.training.measure.prompts import PromptEncoder

FILES = (".npy", ".parquet", ".csv", ".tsv", ".jsonl", ".json")
VECTOR_FIELDS = ("embedding", "vector")
# Beside NAME.npy, whose rows have no names.
PROMPT_FILES = (".txt", ".jsonl", ".csv")
# Files keep vectors in single precision or as some decimal digits: a cosine below this is another vector.
SAME = 1 - 1e-4
# The average cost on fewer prompts says little of that on those to come.
FEWEST_VALIDATION = 10


class GivenPrompts:
    """Embeddings of prompts out of a file.

    Nothing in a file says what made its vectors. So their dimension alone is in the hash, and `check`
    compares them with those of the graph.

    Args:
        name: of the file, for messages.
        vectors: by prompt, not 0.

    Attributes:
        hash: the same for all files of a dimension.
    """

    def __init__(self, name: str, vectors: Mapping[str, np.ndarray]) -> None:
        self._name = name
        self._vectors = {text: vector / np.linalg.norm(vector) for text, vector in vectors.items()}
        self.hash = f"given-{len(next(iter(self._vectors.values())))}"

    def encode(self, prompts: Sequence[str]) -> EncodedPrompts:
        """Look prompts up.

        Raises:
            UnknownPrompt: the file does not have one.
        """
        for prompt in prompts:
            if prompt not in self._vectors:
                raise UnknownPrompt(
                    f"{self._name} has no embedding of {prompt[:60]!r}: add it, or use an encoder instead."
                )
        return EncodedPrompts(np.stack([self._vectors[prompt] for prompt in prompts]).astype(np.float32))

    def check(self, known: Sequence[Prompt]) -> None:
        """Make sure that the encoder of the graph's prompts made these, by the prompts that both have.

        Args:
            known: the graph's prompts; those of another hash are left for the graph to refuse.

        Raises:
            BadEmbeddingFile: a vector is another one, or there is no prompt to compare by.
        """
        known = [prompt for prompt in known if prompt.probe == self.hash]
        shared = [prompt for prompt in known if prompt.text in self._vectors]
        if known and not shared:
            raise BadEmbeddingFile(
                f"{self._name} has none of the graph's prompts, so nothing shows that one encoder made both: "
                "keep some of them in the file."
            )
        for prompt in shared:
            if float(self._vectors[prompt.text] @ prompt.embedding) < SAME:
                raise BadEmbeddingFile(
                    f"{self._name}: the embedding of {prompt.text[:60]!r} is not the one in the graph, so "
                    "another encoder made it."
                )


def load_encoder(probe: str, graph: PromptGraph) -> PromptEncoder:
    """Load what reads prompts.

    Args:
        probe: a file of embeddings, see `read_embeddings`, or what
            `training.measure.prompts.load_prompt_encoder` loads.
        graph: has the prompts by which a file is checked.

    Raises:
        BadEmbeddingFile: the file cannot be used, or another encoder made the graph's embeddings.
        ExtractorUnavailable: weights cannot be had or read.
    """
    from matchgraph.training.measure.prompts import load_prompt_encoder

    path = Path(probe)
    if path.suffix.lower() in FILES and path.is_file():
        given = read_embeddings(path)
        given.check(graph.prompts())
        return given
    return load_prompt_encoder(probe)


def encoded(prompts: Sequence[Prompt], kind: Kind, encoder: PromptEncoder | None = None) -> EncodedPrompts:
    """Prompts of the graph as an estimator reads them: their embeddings are kept, their tokens are not.

    Args:
        prompts: at least one.
        kind: of the estimator.
        encoder: that embedded them; only `network` needs one.

    Raises:
        UnusableEstimator: it is missing, or is another one.
    """
    if kind != "network":
        return EncodedPrompts(np.stack([prompt.embedding for prompt in prompts]))
    if encoder is None or encoder.hash != prompts[0].probe:
        raise UnusableEstimator(
            f"The network reads prompts by the CLIP that embedded them, {prompts[0].probe}: give it with "
            "--probe."
        )
    return encoder.encode([prompt.text for prompt in prompts])


def validation_prompts(
    graph: PromptGraph, kind: Kind, encoder: PromptEncoder | None = None
) -> EncodedPrompts:
    """The prompts that stand for those to come; see `encoded`.

    Raises:
        NoPrompts: there are none.
    """
    found = [prompt for prompt in graph.prompts() if prompt.split == "validation"]
    if not found:
        raise NoPrompts("There are no validation prompts: add prompts with `matchgraph route prompts`.")
    return encoded(found, kind, encoder)


def check_enough(validation: Sized) -> None:
    """Refuse to turn a budget into a lambda by a handful of prompts.

    Args:
        validation: the validation prompts, or what is estimated for each.

    Raises:
        NotEnoughScores: there are fewer than `FEWEST_VALIDATION`.
    """
    if len(validation) < FEWEST_VALIDATION:
        raise NotEnoughScores(
            f"{len(validation)} validation prompts are too few to calibrate on: at least {FEWEST_VALIDATION} "
            "are needed. Add prompts, or give lambda instead of a budget."
        )


def read_embeddings(path: Path) -> GivenPrompts:
    """Read embeddings of prompts.

    Args:
        path: Parquet, CSV or JSON with a column `prompt`, and either a column `embedding` (or `vector`) of
            lists, or each dimension in a column of its own; or `NAME.npy`, float, (n, d), with the n prompts
            in `NAME.txt`, `.jsonl` or `.csv` beside it.

    Raises:
        BadEmbeddingFile: it is no such file, or a vector is empty, of another length, 0 or not finite, or
            another one than an earlier row has for the prompt.
    """
    rows = _array(path) if path.suffix.lower() == ".npy" else _table(path)
    vectors: dict[str, np.ndarray] = {}
    first: dict[str, int] = {}
    length = None
    for number, (text, values) in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        try:
            vector = np.asarray(json.loads(values) if isinstance(values, str) else values, dtype=np.float64)
        except (TypeError, ValueError):
            raise BadEmbeddingFile(f"{where}: the embedding is not a list of numbers.") from None
        length = length or vector.size
        if vector.ndim != 1 or not vector.size or vector.size != length:
            raise BadEmbeddingFile(f"{where}: the embedding has {vector.size} numbers, not {length}.")
        if not np.isfinite(vector).all() or not vector.any():
            raise BadEmbeddingFile(f"{where}: the embedding is 0 or not finite.")
        earlier = vectors.setdefault(text, vector)
        row = first.setdefault(text, number)
        if earlier @ vector < SAME * np.linalg.norm(earlier) * np.linalg.norm(vector):
            raise BadEmbeddingFile(
                f"{path}, rows {row} and {number}: {text[:60]!r} has two embeddings: delete one of the rows."
            )
    if not vectors:
        raise BadEmbeddingFile(f"{path} has no rows.")
    return GivenPrompts(path.name, vectors)


def _table(path: Path) -> list[tuple[str, Any]]:
    table = read_table_file(path, "embeddings", BadEmbeddingFile)
    prompt, vector = table.column(PROMPT_FIELDS), table.column(VECTOR_FIELDS)
    if prompt is None:
        raise BadEmbeddingFile(f"{path} has no column prompt.")
    texts = [str(cell).strip() for cell in table.cells[prompt]]
    if vector is not None:
        return list(zip(texts, table.cells[vector], strict=True))
    dimensions = [name for name in table.columns if name != prompt and not is_label(name)]
    try:
        values = np.array([table.cells[name] for name in dimensions], dtype=np.float64)
        values = values.reshape(len(dimensions), len(table)).T
    except (TypeError, ValueError):
        raise BadEmbeddingFile(
            f"{path} has no column embedding, and other columns than prompt that are not numbers."
        ) from None
    return list(zip(texts, values, strict=True))


def _array(path: Path) -> list[tuple[str, Any]]:
    beside = next((own for end in PROMPT_FILES if (own := path.with_suffix(end)).is_file()), None)
    if beside is None:
        raise BadEmbeddingFile(f"{path}: {path.stem}.txt, with one prompt per row, is missing.")
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadEmbeddingFile(f"{path} cannot be read: {error}") from None
    texts = [text for _, text in read_prompt_file(beside).lines]
    if len(texts) != len(values):
        raise BadEmbeddingFile(f"{path} has {len(values)} rows, but {beside.name} {len(texts)} prompts.")
    return list(zip(texts, values, strict=True))
