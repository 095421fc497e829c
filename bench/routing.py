"""Routers on prompts that were scored for several models, in folders of records: the table of docs/evidence.

    python -m bench.routing minizoo/records RECORDS... --encoder minizoo/probes/clip \
        --page docs/evidence/routing.md

Folders are as `matchgraph graph export` writes them; one without scores of prompts is named and left out.
Prompts are not read again, but for the network and the rewordings, which need the encoder that embedded them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.provenance import provenance
from matchgraph.graphdb.prompt_models import ScoreTable
from matchgraph.ingest.tables.prompt_records import PromptRecords, read_prompt_records
from matchgraph.report.page import plain
from matchgraph.report.routing import TITLES, figures_of, named
from matchgraph.routing.encoders import encoded
from matchgraph.routing.evaluation import CHOSEN, Study, evaluate
from matchgraph.routing.paraphrases import BY_RULE, by_rule
from matchgraph.routing.standing import NEVER
from matchgraph.routing.turns import complete
from matchgraph.stats.intervals import Interval
from matchgraph.training.measure.prompts import PromptEncoder, load_prompt_encoder

RESULTS = Path(__file__).parent / "results" / "routing.json"
PACKAGES = ("matchgraph", "numpy", "scipy", "torch", "open_clip_torch", "sentence-transformers")
BEGIN, END = "<!-- made by bench.routing -->", "<!-- end -->"


def table_of(records: PromptRecords, metric: str) -> ScoreTable:
    """All scores by one metric, as `PromptGraph.table` gives them."""
    variants = tuple(sorted(records.variants, key=lambda variant: (variant.cost, variant.id)))
    rows = {prompt.id: row for row, prompt in enumerate(records.prompts)}
    columns = {variant.id: column for column, variant in enumerate(variants)}
    shape = (len(rows), len(columns))
    mean, std, samples = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=np.int64)
    for score in records.scores:
        if score.metric == metric:
            at = rows[score.prompt], columns[score.variant]
            mean[at], samples[at] = score.value, score.samples
    return ScoreTable(metric, "", tuple(records.prompts), variants, mean, std, samples)


def studied(table: ScoreTable, encoder: PromptEncoder | None, folds: int, seed: int) -> Study:
    """Route by the table's metric; with network and rewordings where the encoder is that of the prompts."""
    reads = encoder is not None and encoder.hash == table.prompts[0].probe
    return evaluate(
        table,
        encoded(table.prompts, "network" if reads else "gaussian", encoder),
        rewordings={BY_RULE: by_rule(table.prompts, encoder)} if encoder is not None and reads else None,
        folds=folds,
        seed=seed,
    )


def lines_of(name: str, study: Study) -> list[str]:
    """The study in Markdown."""
    digits = 4 if np.ptp(study.truth) < 0.5 else 3
    lines = [
        "",
        f"### {name}: {study.metric}",
        "",
        f"{len(study.prompts)} prompts, {len(study.variants)} candidates. Chosen on validation prompts: "
        f"{named([TITLES[each] for each in study.chosen])}. Best single candidate, of the training prompts: "
        f"{named(study.singles)}.",
        "",
        "| router | over random mixing, mean of all budgets | over the best single, at its cost | below the "
        "oracle there | cost at the best single's quality | decision |",
        "|---|---|---|---|---|---|",
    ]
    for key, own in study.comparisons.items():
        stands = study.standings[key]
        title = f"**{TITLES[key]}**" if key == CHOSEN else TITLES[key]
        took = study.decision_ms.get(key)
        lines.append(
            f"| {title} | {written(own.over_mixing, digits, '+')} "
            f"| {written(stands.over_single, digits, '+')} | "
            f"{written(stands.below_oracle, digits)} | {share(stands.cost)} | "
            f"{'' if took is None else f'{took:.1f} ms'} |"
        )
    if study.best is not None and study.enough is not None:
        lines += [
            "",
            "Probabilities, as `route ask` gives them: the calibration error is "
            f"{written(study.best.error, 3)} for P(best) of a prompt's likeliest candidate, and "
            f"{written(study.enough.error, 3)} for P(success), a quality of at least the best single "
            "candidate's mean. Squared error saved against the candidates' shares of the training prompts: "
            f"{written(study.best.over_share, 4, '+')} for P(best), "
            f"{written(study.enough.over_share, 4, '+')} for P(success).",
        ]
    if (world := study.world) is not None:
        lines += [
            "",
            f"With one of {world.topics} topics held out at a time: "
            f"{written(world.over_mixing, digits, '+')} over random mixing, "
            f"{written(world.standing.over_single, digits, '+')} over the best single candidate; "
            f"{share(world.unfamiliar)} of these prompts are marked as unfamiliar.",
        ]
    for kind, other in study.rewordings.items():
        lines += [
            "",
            f"Reworded {kind}, {share(other.same)} of the prompts keep their candidate at the middle of all "
            f"budgets; quality changes by {written(other.change, digits, '+')}.",
        ]
    return lines


def written(interval: Interval, digits: int, sign: str = "") -> str:
    """A figure with its interval."""
    value, low, high = (f"{each:{sign}.{digits}f}" for each in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def share(interval: Interval) -> str:
    """A share with its interval; what is never reached has no cost."""
    value, low, high = (
        "not reached" if each >= NEVER else f"{100 * each:.0f}"
        for each in (interval.value, interval.low, interval.high)
    )
    return f"{value}{'' if interval.value >= NEVER else ' %'} [{low}, {high}]"


def with_tables(page: str, tables: str) -> str:
    """The page with these tables in place of those between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise click.ClickException(f"The page has no {BEGIN} with {END} after it.")
    return f"{before}{BEGIN}\n{tables.strip()}\n\n{END}{after}"


def name_of(folder: Path) -> str:
    """The name of a folder of records, or of what it belongs to if it is just called that."""
    return folder.resolve().parent.name if folder.name == "records" else folder.name


@click.command()
@click.argument(
    "records", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--encoder", help="CLIP that embedded the prompts of a folder, for network and rewordings.")
@click.option("--folds", default=10, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--page", type=click.Path(path_type=Path, exists=True), help="Page whose table is replaced.")
@click.option("--note", default="", help="What else the machine was busy with.")
def main(
    records: Sequence[Path], encoder: str | None, folds: int, seed: int, page: Path | None, note: str
) -> None:
    """See the module."""
    reader = None if encoder is None else load_prompt_encoder(encoder)
    lines: list[str] = []
    figures: dict[str, Any] = {}
    for folder in records:
        found = None
        if (folder / "prompts.csv").is_file():
            models = [line.split(",")[0] for line in (folder / "models.csv").read_text().splitlines()[1:]]
            found = read_prompt_records(folder, models)
        if found is None or not found.scores:
            click.echo(f"{folder.name}: no scores of prompts", err=True)
            continue
        for metric in sorted(Counter(score.metric for score in found.scores)):
            study = studied(complete(table_of(found, metric)), reader, folds, seed)
            name = name_of(folder)
            figures[f"{name}, {metric}"] = figures_of(study)
            lines += lines_of(name, study)
            click.echo(f"{name}, {metric}", err=True)
    command = f"python -m bench.routing {' '.join(map(name_of, records))} --folds {folds} --seed {seed}"
    content = plain({"command": command, **provenance(PACKAGES, note), "studies": figures})
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    text = "\n".join(lines)
    click.echo(text)
    if page is not None:
        page.write_text(with_tables(page.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main()
