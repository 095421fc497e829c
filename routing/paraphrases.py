"""Other wordings of the graph's prompts: by rule, or by people, from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.errors import Error
from matchgraph.graphdb.prompt_models import check_prompt
from matchgraph.routing.errors import BadPromptPairs
from matchgraph.routing.table_files import read_table_file
from matchgraph.training.prompt_files import PROMPT_FIELDS

if TYPE_CHECKING:
    from matchgraph.graphdb.prompt_models import Prompt
    from matchgraph.training.measure.prompts import EncodedPrompts, PromptEncoder

PARAPHRASE_FIELDS = ("paraphrase", "rewording", "reworded", "rewrite")
BY_RULE, GIVEN = "by rule", "as given"


@dataclass(frozen=True, eq=False)
class Rewordings:
    """Other wordings of prompts.

    Attributes:
        rows: number of the prompt that each is of, (p,); a prompt may have none or several.
        encoded: the wordings, in this order.
    """

    rows: np.ndarray
    encoded: EncodedPrompts

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of the wordings of some prompts."""
        return np.flatnonzero(np.isin(self.rows, rows))


def by_rule(prompts: Sequence[Prompt], encoder: PromptEncoder) -> Rewordings:
    """Each prompt worded otherwise by `reword`."""
    return Rewordings(np.arange(len(prompts)), encoder.encode([reword(prompt.text) for prompt in prompts]))


def as_given(
    prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]], encoder: PromptEncoder
) -> Rewordings:
    """The pairs whose first part is one of some prompts.

    Raises:
        BadPromptPairs: there is none.
    """
    row_of = {prompt.text: row for row, prompt in enumerate(prompts)}
    known = [(row_of[text], other) for text, other in pairs if text in row_of]
    if not known:
        raise BadPromptPairs(
            f"None of the {len(pairs)} pairs is of a prompt that is scored for every candidate: the first of "
            f"them is of {pairs[0][0][:60]!r}."
        )
    return Rewordings(np.array([row for row, _ in known]), encoder.encode([other for _, other in known]))


def reword(text: str) -> str:
    """Another wording by rule: lower case, parts between commas in reverse order, "a picture of" in front."""
    parts = [part.strip() for part in text.strip().rstrip(".").split(",") if part.strip()]
    return f"a picture of {', '.join(reversed(parts)).lower()}"


def read_paraphrases(path: Path) -> list[tuple[str, str]]:
    """Read pairs of a prompt and another wording of it.

    Args:
        path: CSV, TSV, JSON Lines, JSON or Parquet with columns `prompt` and `paraphrase`.

    Raises:
        BadPromptPairs: it is no such file, or a row cannot be used.
    """
    table = read_table_file(path, "pairs of prompts", BadPromptPairs)
    prompt, paraphrase = (table.column(fields) for fields in (PROMPT_FIELDS, PARAPHRASE_FIELDS))
    if prompt is None or paraphrase is None:
        raise BadPromptPairs(f"{path} needs columns prompt and paraphrase; it has {table.named()}.")
    pairs = []
    for number, row in enumerate(table.rows(), start=1):
        cells = (row[prompt], row[paraphrase])
        try:
            text, other = (check_prompt(cell.strip() if isinstance(cell, str) else cell) for cell in cells)
        except Error as error:
            raise BadPromptPairs(f"{path}, row {number}: {error}") from None
        pairs.append((text, other))
    if not pairs:
        raise BadPromptPairs(f"{path} has no rows.")
    return pairs
