"""Scores of one's own: a table of how well candidates did on prompts, by people or by any metric.

Long tables have a row for each score: the prompt, the candidate, its value, and perhaps the metric, the cost
of an image, the rater and the image. Wide tables have a row for each prompt and a column of values for each
candidate. Several values of one candidate on one prompt (raters, images) give a mean and its spread. A long
table without values may name the images themselves, which are then to be scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Number
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from matchgraph.errors import Error
from matchgraph.graphdb.checks import check_id, check_metric_name
from matchgraph.graphdb.names import alike
from matchgraph.graphdb.prompt_models import Unit, check_prompt
from matchgraph.routing.errors import BadScoreFile
from matchgraph.routing.table_files import TableFile, is_label, read_table_file
from matchgraph.training.prompt_files import PROMPT_FIELDS
from matchgraph.words import MISSING

T = TypeVar("T")

# Names of a column, in any case, in the order in which they count.
NAMES = {
    "prompt": PROMPT_FIELDS,
    "candidate": ("candidate", "variant", "model"),
    "metric": ("metric",),
    "value": ("value", "score", "rating", "quality"),
    "image": ("image",),
}
COSTS: Mapping[str, Unit] = {"tflop": "TFLOP", "seconds": "s", "latency_s": "s", "usd": "USD"}
# Told apart in a long table, but of no use beyond the spread.
SOURCES = ("rater", "annotator", "image", "seed", "sample")
# Above this share of numbers, a column of a wide table is a candidate's, and a word in it a slip.
NUMERIC_SHARE = 0.8


@dataclass(frozen=True)
class Values:
    """All values of one candidate on one prompt.

    Attributes:
        values: at least one.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return math.fsum(self.values) / len(self.values)

    @property
    def std(self) -> float | None:
        """Their sample standard deviation; None of one value."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None


@dataclass(frozen=True)
class ScoreFile:
    """The scores of a file.

    Attributes:
        prompts: texts, each once, in file order.
        candidates: names, in file order.
        scores: by metric, candidate and prompt.
        costs: of an image of each candidate, as far as the file says.
        unit: of the costs; None where the file has none, or does not say of which unit they are.
        notes: columns that are not read.
        images: files by candidate and prompt, in a table without values; there are no scores then.
        wide: whether each column of numbers was taken for a candidate's.
    """

    prompts: tuple[str, ...]
    candidates: tuple[str, ...]
    scores: Mapping[str, Mapping[tuple[str, str], Values]]
    costs: Mapping[str, float] = field(default_factory=dict)
    unit: Unit | None = None
    notes: tuple[str, ...] = ()
    images: Mapping[tuple[str, str], tuple[Path, ...]] = field(default_factory=dict)
    wide: bool = False


def read_score_file(
    path: Path, metric: str | None = None, unit: Unit | None = None, priced: Collection[str] = ()
) -> ScoreFile:
    """Read scores.

    Args:
        path: CSV, TSV, JSON Lines, a JSON list of objects, or Parquet; see the module. A column `tflop`,
            `seconds` (or `latency_s`) or `usd` has the cost of an image, as has `cost`, whose unit it leaves
            open.
        metric: name of the metric where no column has it; by default the name of the column of values, or
            `score` where that is `value` and in a wide table. Without a column of values, a column `image`
            has the paths of images, from the folder of the table.
        unit: of the costs: its own column is read, or `cost` where there is none; by default `cost`, or the
            first of the others.
        priced: candidates whose costs are known, so that those of the file do not count.

    Raises:
        BadScoreFile: it is no such table, or a row cannot be used (the message has its number, from 1 below
            the header).
    """
    table = read_table_file(path, "scores", BadScoreFile)
    columns = {name: table.column(names) for name, names in NAMES.items()}
    if not len(table):
        raise BadScoreFile(f"{path} has no rows.")
    if columns["prompt"] is None:
        raise BadScoreFile(f"{path} has no column prompt; it has {table.named()}.")
    if columns["candidate"] is not None:
        if columns["value"] is None and columns["image"] is None:
            raise BadScoreFile(
                f"{path} has no column value (or score, rating, quality), and no column image; it has "
                f"{table.named()}."
            )
        return _long(path, table, columns, metric, unit, priced)
    if columns["value"] is not None:
        raise BadScoreFile(
            f"{path} has a column {columns['value']}, but no column candidate (or model): name a column "
            f"candidate, or, where each candidate has a column, delete or rename {columns['value']}; it has "
            f"{table.named()}."
        )
    return _wide(path, table, columns["prompt"], columns["metric"], metric or "score")


def _long(
    path: Path,
    table: TableFile,
    columns: Mapping[str, str | None],
    metric: str | None,
    unit: Unit | None,
    priced: Collection[str],
) -> ScoreFile:
    prompt, candidate, value = columns["prompt"], columns["candidate"], columns["value"]
    image = columns["image"] if value is None else None
    named = [name for name, own in COSTS.items() if own == unit]
    costs = table.column([*named, "cost", *(() if unit else COSTS)])
    found: dict[str, dict[tuple[str, str], list[float]]] = {}
    images: dict[tuple[str, str], tuple[Path, ...]] = {}
    prices: dict[str, list[float]] = {}
    other: tuple[str, str, float] | None = None
    header = str(value).lower()
    own = metric or ("score" if header == "value" else header)
    prompts: dict[str, None] = {}
    candidates: dict[str, None] = {}
    for number, row in enumerate(table.rows(), start=1):
        where = f"{path}, row {number}"
        text, name = _prompt(row[str(prompt)], where), _candidate(row[str(candidate)], where)
        prompts[text] = candidates[name] = None
        if image is not None:
            images[name, text] = (*images.get((name, text), ()), _image(path, row[image], where))
        else:
            by = _metric(row, columns["metric"], own, where)
            score = _number(row[str(value)], f"{where}: {value}", "delete the row")
            if score is None:
                raise BadScoreFile(f"{where}: {value} is empty: fill it in, or delete the row.")
            found.setdefault(by, {}).setdefault((name, text), []).append(score)
        cost = None if costs is None or name in priced else _number(row[costs], f"{where}: {costs}")
        if cost is not None:
            prices.setdefault(name, []).append(cost)
            if cost != prices[name][0] and other is None:
                other = where, name, cost
    if other is not None:
        where, name, cost = other
        mean = math.fsum(prices[name]) / len(prices[name])
        raise BadScoreFile(
            f"{where}: {name} costs {cost:g} here and {prices[name][0]:g} above: give one cost; on average "
            f"it is {mean:.6g}."
        )
    used = {*columns.values(), costs}
    if image is not None:
        # All images are scored by one metric, which the command gives.
        used.discard(columns["metric"])
    unread = [name for name in table.columns if name not in used and name.lower() not in SOURCES]
    known = None if costs is None else COSTS.get(costs.lower())
    one = {name: own[0] for name, own in prices.items()}
    return replace(_file(path, table, prompts, candidates, found, one, known, unread), images=images)


def _wide(path: Path, table: TableFile, prompt: str, by: str | None, metric: str) -> ScoreFile:
    others = [name for name in table.columns if name not in (prompt, by) and name.lower() not in SOURCES]
    scored = [name for name in others if _is_scored(name, table.cells[name])]
    if len(scored) < 2:
        raise BadScoreFile(
            f"{path} has no column candidate, and fewer than two columns of numbers: name the columns "
            "prompt, candidate and value, or give each candidate a column."
        )
    found: dict[str, dict[tuple[str, str], list[float]]] = {}
    prompts: dict[str, None] = {}
    candidates = [_candidate(name, str(path)) for name in scored]
    for number, row in enumerate(table.rows(), start=1):
        where = f"{path}, row {number}"
        text = _prompt(row[prompt], where)
        prompts[text] = None
        values = found.setdefault(_metric(row, by, metric, where), {})
        for name in scored:
            value = _number(row[name], f"{where}: {name}")
            if value is not None:
                values.setdefault((name, text), []).append(value)
    unread = [name for name in others if name not in scored]
    file = _file(path, table, prompts, dict.fromkeys(candidates), found, {}, None, unread)
    return replace(file, wide=True)


def _is_scored(name: str, cells: Sequence[Any] | np.ndarray) -> bool:
    """Whether a column of a wide table is a candidate's: of numbers, but for empty cells, words for a missing
    value, and slips.
    """
    if is_label(name) or name.lower() in ("cost", *COSTS):
        return False
    finite = slips = 0
    for cell in cells:
        number = _parsed(cell)
        if number is not None:
            # To Python, "nan" is a number.
            finite += math.isfinite(number)
        elif not (_empty(cell) or (isinstance(cell, str) and cell.strip().lower() in MISSING)):
            slips += 1
    return finite > 0 and finite >= NUMERIC_SHARE * (finite + slips)


def _file(
    path: Path,
    table: TableFile,
    prompts: Mapping[str, None],
    candidates: Mapping[str, None],
    found: Mapping[str, Mapping[tuple[str, str], Sequence[float]]],
    costs: Mapping[str, float],
    unit: Unit | None,
    unread: Sequence[str],
) -> ScoreFile:
    scores = {
        metric: {at: Values(tuple(values)) for at, values in own.items()} for metric, own in found.items()
    }
    left = [*map(repr, unread), *table.nameless]
    notes = [f"{path.name}: not read: {', '.join(left)}"] if left else []
    notes += [f"{path.name}: {note}" for note in alike(candidates)]
    return ScoreFile(tuple(prompts), tuple(candidates), scores, costs, unit, tuple(notes))


def _metric(row: Mapping[str, Any], column: str | None, otherwise: str, where: str) -> str:
    """The metric of a row: `otherwise` where no column has it."""
    if column is None:
        return str(_checked(check_metric_name, otherwise, where))
    if _empty(row[column]):
        raise BadScoreFile(f"{where}: {column} is empty: fill it in.")
    return str(_checked(check_metric_name, str(row[column]).strip(), where))


def _prompt(value: Any, where: str) -> str:
    text = value.strip() if isinstance(value, str) else value
    return str(_checked(check_prompt, text, where))


def _candidate(value: Any, where: str) -> str:
    # Numbers are common names.
    if not (_empty(value) or isinstance(value, str | int | float)):
        raise BadScoreFile(f"{where}: the candidate is of type {type(value).__name__}: give its name.")
    name = "" if _empty(value) else str(value).strip()
    _checked(partial(check_id, kind="candidate"), name, where)
    return name


def _image(table: Path, value: Any, where: str) -> Path:
    path = table.parent / str(value).strip()
    if _empty(value) or not path.is_file():
        raise BadScoreFile(f"{where}: there is no image {str(value)!r}: give its path from {table.parent}.")
    return path


def _checked(check: Callable[[Any], T], value: Any, where: str) -> T:
    try:
        return check(value)
    except Error as error:
        raise BadScoreFile(f"{where}: {error}") from None


def _number(value: Any, what: str, otherwise: str = "leave it empty") -> float | None:
    """A finite number, None of an empty cell."""
    if _empty(value):
        return None
    number = _parsed(value)
    if number is None or not math.isfinite(number):
        raise BadScoreFile(f"{what} is {str(value)[:40]!r}: write a finite number, or {otherwise}.")
    return number


def _parsed(value: Any) -> float | None:
    # Python takes 1_000 for a number.
    if isinstance(value, bool) or not isinstance(value, str | Number) or "_" in str(value):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None


def _empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))
