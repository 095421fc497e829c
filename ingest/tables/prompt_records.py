"""The prompt level of a folder of records: prompts, models as they are served, and how well these do.

`prompts.csv` has a row for each prompt, `prompts.safetensors` their embeddings, `variants.csv` a row for each
variant. `scores.csv` lists the tables in `scores/`, usually one for each metric, with what all scores of a
table were measured with. Such a table has a row for each prompt, and for each variant the column `<variant>`
with the mean and `<variant>__std` with the standard deviation of its images; what is not scored is empty.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from matchgraph.drawing import InvalidDrawing
from matchgraph.graphdb.checks import INTEGER_RANGE, check_metric_name
from matchgraph.graphdb.errors import GraphError
from matchgraph.graphdb.prompt_models import SPLITS, Prompt, Score, Variant, check_prompt, prompt_id
from matchgraph.ingest.errors import BadInput, Problem
from matchgraph.ingest.tables.csv_file import (
    INTEGER,
    Row,
    Table,
    check_ids,
    check_unique,
    number_problem,
    parse_number,
    read_table,
    typed_columns,
)
from matchgraph.ingest.tables.results import check_known

PROMPTS, EMBEDDINGS, VARIANTS, SCORES = "prompts.csv", "prompts.safetensors", "variants.csv", "scores.csv"
TABLES = "scores"
PROMPT_COLUMNS = ("id", "text", "split", "probe")
VARIANT_COLUMNS = (
    "variant",
    "model",
    "steps",
    "cost",
    "unit",
    "sampler",
    "guidance",
    "resolution_px",
    "cache_interval",
    "precision",
)
# Up to version 0.1 all costs were TFLOP.
EARLIER_COST = "tflop"
VARIANT_COUNTS = ("steps", "resolution_px", "cache_interval")
INDEX_COLUMNS = ("metric", "scorer", "samples", "file")
TABLE_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}(-\d{1,6})?\.csv", re.ASCII)
STD = "__std"
POSITIVE = range(1, INTEGER_RANGE.stop)


@dataclass(frozen=True)
class PromptRecords:
    """The prompt level of some records, checked.

    Attributes:
        prompts: in file order.
        variants: in file order.
        scores: of these variants on these prompts.
    """

    prompts: tuple[Prompt, ...] = ()
    variants: tuple[Variant, ...] = ()
    scores: tuple[Score, ...] = ()


def read_prompt_records(folder: Path, models: Collection[str]) -> PromptRecords:
    """Read and check the prompt level of a folder of records.

    Args:
        folder: as `write_prompt_records` leaves it; without its files, the prompt level is empty.
        models: ids of the models that there are.

    Raises:
        BadInput: a file is missing or has problems, which are named by line.
    """
    there = {name for name in (PROMPTS, EMBEDDINGS, VARIANTS, SCORES) if (folder / name).is_file()}
    for name, needs in ((PROMPTS, EMBEDDINGS), (EMBEDDINGS, PROMPTS), (SCORES, PROMPTS), (SCORES, VARIANTS)):
        if name in there and needs not in there:
            reason = f"there is {name} and no {needs}"
            raise BadInput([Problem(str(folder), 0, reason, f"add {needs}, or delete {name}")])
    prompts = _read_prompts(folder) if PROMPTS in there else ()
    variants = _read_variants(folder / VARIANTS, models) if VARIANTS in there else ()
    tables = sorted((folder / TABLES).glob("*.csv"))
    if tables and SCORES not in there:
        raise BadInput([Problem(str(tables[0]), 0, f"there is no {SCORES} that lists it", "list it there")])
    scores: tuple[Score, ...] = ()
    if SCORES in there:
        scores = _read_scores(folder, {prompt.id for prompt in prompts}, {variant.id for variant in variants})
    return PromptRecords(prompts, variants, scores)


def _read_prompts(folder: Path) -> tuple[Prompt, ...]:
    table = read_table(
        folder / PROMPTS, required=PROMPT_COLUMNS, reserved={"embedding": "rename it"}, verbatim=("text",)
    )
    check_unique(table, "id")
    probes = Counter(probe for row in table.rows if (probe := row.cells["probe"]))
    for row in table.rows:
        _check_prompt_row(table, row, max(probes, key=probes.__getitem__, default=""))
    attributes = [name for name in table.columns if name not in PROMPT_COLUMNS]
    properties = typed_columns(table, attributes, exact=True)
    embeddings = _read_embeddings(folder / EMBEDDINGS)
    for row in table.rows:
        if row.cells["id"] not in embeddings:
            reason = f"prompt {row.cells['id'][:40]!r} has no embedding in {EMBEDDINGS}"
            table.problem(row.line, reason, "delete the row, or export the records again")
    for name in sorted(embeddings.keys() - {row.cells["id"] for row in table.rows}):
        reason = f"has an embedding of prompt {name[:40]!r}, which {PROMPTS} does not list"
        table.problems.append(Problem(str(folder / EMBEDDINGS), 0, reason, "export the records again"))
    prompts = []
    for row in table.good_rows():
        cells = row.cells
        try:
            prompts.append(
                Prompt(
                    cells["text"],
                    cells["split"],  # type: ignore[arg-type]
                    cells["probe"],
                    embeddings[cells["id"]],
                    properties[row.line],
                )
            )
        except GraphError as error:
            table.problem(row.line, str(error).rstrip("."), "export the records again")
    table.finish(skip_bad=False)
    return tuple(prompts)


def _check_prompt_row(table: Table, row: Row, probe: str) -> None:
    cells = row.cells
    try:
        own = prompt_id(check_prompt(cells["text"]))
    except GraphError as error:
        table.problem(row.line, str(error).rstrip("."), "correct the text or delete the row")
    else:
        if own != cells["id"]:
            reason = f"id {cells['id'][:40]!r} is not {own!r}, that of the text {cells['text'][:40]!r}"
            table.problem(row.line, reason, "restore the original id and text")
    if cells["split"] not in SPLITS:
        table.problem(
            row.line, f"split is {cells['split'][:40]!r}", f"write {', '.join(SPLITS[:-1])} or test"
        )
    if not cells["probe"]:
        table.problem(row.line, "no probe", "write the hash of the CLIP that embedded the prompt")
    elif cells["probe"] != probe:
        reason = f"probe is {cells['probe'][:40]!r} here and {probe[:40]!r} elsewhere"
        table.problem(row.line, reason, "keep the prompts that one CLIP embedded")


def _read_embeddings(path: Path) -> dict[str, np.ndarray]:
    """Embeddings by prompt."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stored:
            ids = json.loads(stored.metadata()["prompts"])
            embeddings = stored.get_tensor("embeddings")
        if embeddings.dtype != np.float32 or embeddings.ndim != 2:
            raise ValueError(f"embeddings are {embeddings.dtype}, {embeddings.shape}")
        return dict(zip(map(str, ids), embeddings, strict=True))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = f"holds no usable embeddings: {error}".splitlines()[0]
        raise BadInput([Problem(str(path), 0, reason, "export the records again")]) from None


def _read_variants(path: Path, models: Collection[str]) -> tuple[Variant, ...]:
    table = read_table(path, required=("variant", "model"), optional=(*VARIANT_COLUMNS[2:], EARLIER_COST))
    if not {"cost", EARLIER_COST} & set(table.columns):
        table.problem(1, "there is no column 'cost'", "add what an image of each variant costs")
    check_ids(table, {"variant": "variant", "model": "model"})
    check_unique(table, "variant")
    check_known(table, "model", "model", models)
    taken = {"prompt", *(row.cells["variant"] + STD for row in table.rows)}
    variants = []
    for row in table.rows:
        if row.cells["variant"] in taken:
            reason = f"{row.cells['variant']!r} is the name of another column in tables of scores"
            table.problem(row.line, reason, "rename the variant")
        numbers = {
            name: _number(table, row, name) for name in ("cost", EARLIER_COST, "guidance", *VARIANT_COUNTS)
        }
        given = {name: number for name, number in numbers.items() if number is not None}
        cost = given.pop(EARLIER_COST, 0.0)
        texts = {name: text for name in ("sampler", "unit", "precision") if (text := row.cells.get(name))}
        if row.line in table.bad_lines:
            continue
        try:
            variants.append(
                Variant.from_flat(
                    {
                        "id": row.cells["variant"],
                        "model": row.cells["model"],
                        "cost": cost,
                        **texts,
                        **given,
                    }
                )
            )
        except (GraphError, InvalidDrawing) as error:
            table.problem(row.line, str(error).rstrip("."), "correct the row")
    table.finish(skip_bad=False)
    return tuple(variants)


def _number(table: Table, row: Row, column: str) -> Any:
    """The number in a cell, None where it is empty; that it is none is noted."""
    text = row.cells.get(column, "")
    if not text:
        return None
    if column in VARIANT_COUNTS:
        if INTEGER.fullmatch(text) and int(text) in INTEGER_RANGE:
            return int(text)
        table.problem(row.line, f"{column} is {text[:40]!r}", "write a whole number from 1")
        return None
    value = parse_number(text)
    if value is None:
        reason, remedy = number_problem(text)
        table.problem(row.line, f"{column}: {reason}", remedy)
    return value


def _read_scores(folder: Path, prompts: Collection[str], variants: Collection[str]) -> tuple[Score, ...]:
    index = read_table(folder / SCORES, required=INDEX_COLUMNS, optional=())
    check_unique(index, "file")
    for row in index.rows:
        _check_index_row(index, row, folder)
    listed = {row.cells["file"] for row in index.rows}
    for path in sorted((folder / TABLES).glob("*.csv")):
        if path.name not in listed:
            index.problems.append(
                Problem(str(path), 0, f"{SCORES} does not list it", "list it there, or delete it")
            )
    index.finish(skip_bad=False)
    scores: dict[tuple[str, str, str], Score] = {}
    for row in index.rows:
        _read_score_table(folder / TABLES / row.cells["file"], row.cells, prompts, variants, scores)
    return tuple(scores.values())


def _check_index_row(index: Table, row: Row, folder: Path) -> None:
    cells = row.cells
    try:
        check_metric_name(cells["metric"])
    except GraphError as error:
        index.problem(row.line, str(error).rstrip("."), "rename the metric")
    if not cells["scorer"]:
        index.problem(row.line, "no scorer", "write the hash of what scored")
    if not INTEGER.fullmatch(cells["samples"]) or int(cells["samples"]) not in POSITIVE:
        reason = f"samples is {cells['samples'][:40]!r}"
        index.problem(row.line, reason, "write how many images were drawn for each score")
    if not TABLE_NAME.fullmatch(cells["file"]):
        reason = f"file is {cells['file'][:40]!r}"
        index.problem(row.line, reason, f"name a file in {TABLES}/, such as clip_score.csv")
    elif not (folder / TABLES / cells["file"]).is_file():
        index.problem(row.line, f"there is no {TABLES}/{cells['file']}", "add it, or delete the row")


def _read_score_table(
    path: Path,
    about: Mapping[str, str],
    prompts: Collection[str],
    variants: Collection[str],
    scores: dict[tuple[str, str, str], Score],
) -> None:
    """Read a table of scores, and add them to others.

    Args:
        path: the table.
        about: its row in the list of tables.
        prompts: ids of those that there are.
        variants: ids of those that there are.
        scores: those read before, by metric, variant and prompt.
    """
    table = read_table(path, required=("prompt",))
    columns = [name for name in table.columns if name != "prompt"]
    scored = [name for name in columns if name in variants]
    deviations = {name + STD for name in columns}.intersection(columns)
    for name in columns:
        if name not in variants and name not in deviations:
            reason = f"column {name[:80]!r} is not a variant of {VARIANTS}"
            table.problem(1, reason, "add the variant there, or delete the column")
    check_unique(table, "prompt")
    samples = int(about["samples"])
    for row in table.rows:
        prompt = row.cells["prompt"]
        if prompt not in prompts:
            table.problem(row.line, f"prompt {prompt[:80]!r} is not in {PROMPTS}", "add it or delete the row")
        if row.line in table.bad_lines:
            continue
        for variant in scored:
            value = _figure(table, row, variant)
            std = _figure(table, row, variant + STD) if variant + STD in deviations else None
            if value is None:
                if std is not None and not row.cells[variant]:
                    reason = (
                        f"column {variant + STD!r} is {row.cells[variant + STD]} of a score that is empty"
                    )
                    table.problem(row.line, reason, "fill in or empty both")
                continue
            at = (about["metric"], variant, prompt)
            if at in scores:
                reason = f"{about['metric']} of {variant!r} on {prompt!r} is in another table already"
                table.problem(row.line, reason, "keep one of the two")
                continue
            try:
                scores[at] = Score(variant, prompt, about["metric"], value, samples, std, about["scorer"])
            except GraphError as error:
                table.problem(row.line, str(error).rstrip("."), "correct or empty the cell")
    table.finish(skip_bad=False)


def _figure(table: Table, row: Row, column: str) -> float | None:
    text = row.cells[column]
    if not text:
        return None
    value = parse_number(text)
    if value is None:
        reason, _ = number_problem(text)
        table.problem(row.line, f"column {column!r}: {reason}", "write a number, or leave it empty")
    return value
