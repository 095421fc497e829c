"""The page of a run: what was asked, what happened and with what, scores, samples and the loss, in one file
that opens anywhere, without a network and without scripts.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matchgraph.graphdb.metrics import KNOWN_METRICS
from matchgraph.ingest.runs.curves import loss_curve
from matchgraph.pages import page_environment
from matchgraph.svg import standalone
from matchgraph.training.files import write_text
from matchgraph.words import in_words

TEMPLATE = "run.html.jinja"
PAGE_FILE = "index.html"
CURVE_FILE = "loss.svg"
GRID_FILE = "samples.png"
GRID_BEFORE_FILE = "samples_before.png"
GRID_REAL_FILE = "real.png"
# A larger grid is embedded at this size, or a page of 16 images of 1024 pixels would weigh tens of megabytes.
EMBEDDED_PX = 1024
EMBEDDED_QUALITY = 88
# A smaller one is enlarged, and looks best with its pixels as they are.
SMALL_PX = 320
# Standard errors that a change must exceed.
CLEAR = 1.96
COLOURS = {"better": "good", "worse": "bad"}


@dataclass(frozen=True)
class Picture:
    """A grid of samples, ready for a page.

    Attributes:
        title: what it shows.
        uri: the picture itself as a data URI.
        width: of the embedded picture, in pixels.
        height: of the embedded picture, in pixels.
        file: name of the whole picture, beside the page.
        reduced: whether the embedded one is smaller than that.
    """

    title: str
    uri: str
    width: int
    height: int
    file: str
    reduced: bool


@dataclass(frozen=True)
class ScoreRow:
    """One metric before and after fine-tuning, in words.

    Attributes:
        metric: its name.
        better: "smaller" or "larger"; empty where the metric is not known.
        before: of the pretrained model; empty where it was not scored.
        after: of the fine-tuned model.
        change: of the value, in per cent.
        verdict: "better" or "worse"; "not clear" where standard errors are known and leave that open; empty
            where nothing changed or the metric's direction is not known.
        images: how many images it is an estimate from.
        extractor: name of what looked at the images.
        extractor_hash: what tells it from another of that name.
        resize: how images came to the extractor's size.
        version: of the metric's definition.
    """

    metric: str
    better: str
    before: str
    after: str
    change: str
    verdict: str
    images: str
    extractor: str
    extractor_hash: str
    resize: str
    version: str


def write_run_page(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write `index.html` and `loss.svg` into a run's folder, from its record and the pictures beside it.

    Args:
        folder: the run's folder; `samples.png`, `samples_before.png` and `real.png` are shown if they exist.
        record: the content of `record.json`.

    Returns:
        The page.

    Raises:
        OSError: it cannot be written, or a picture cannot be read.
    """
    from markupsafe import Markup

    asked, happened, used = record["asked"], *training_blocks(record)
    curve = loss_curve(happened.get("losses") or [], happened.get("resumed_at") or [])
    if curve is not None:
        write_text(folder / CURVE_FILE, standalone(curve))
    scores = score_rows(record)
    # Ids and captions are others' text: every value is escaped, but for the curve, which holds none of them.
    page = (
        page_environment("matchgraph.ingest.runs")
        .get_template(TEMPLATE)
        .render(
            run=record["run"],
            model=asked["model"],
            dataset=asked["dataset"],
            scores=scores,
            scored_before=any(row.before for row in scores),
            judged=any(row.verdict for row in scores),
            colours=COLOURS,
            pictures=pictures_of(folder),
            prompts=record["with"].get("prompts") or [],
            small_px=SMALL_PX,
            curve=None if curve is None else Markup(curve),
            blocks={
                "Settings": halves(facts(asked)),
                "What happened": halves(facts(_happened(record, happened))),
                "Machine and versions": halves(facts(used)),
            },
        )
    )
    return write_text(folder / PAGE_FILE, page)


def training_blocks(record: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What happened in a run's training and with what; both empty where the executor recorded neither.

    From the end of the training until all is measured, the record is that of the training alone.
    """
    details = record.get("with", record)
    return details.get("happened", {}), details.get("used", {})


def score_rows(record: Mapping[str, Any]) -> list[ScoreRow]:
    """Put the scores before and after fine-tuning side by side, in the order in which they were measured."""
    measured = record["measured"]
    before = {score["metric"]: score for score in measured["initial"]}
    rows = []
    for after in measured["finetuned"]:
        larger = larger_is_better(after["metric"])
        start, end = before.get(after["metric"], {}).get("value"), after["value"]
        rows.append(
            ScoreRow(
                metric=after["metric"],
                better="" if larger is None else "larger" if larger else "smaller",
                before="" if start is None else _with_deviation(before[after["metric"]]),
                after=_with_deviation(after),
                change="" if not start else f"{100 * (end - start) / abs(start):+.1f} %".replace("-", "−"),
                verdict=_verdict(before.get(after["metric"]), after, larger),
                images=f"{after['n_real']:,} real, {after['n_gen']:,} generated",
                extractor=after["extractor_name"],
                extractor_hash=after["extractor"],
                resize=after["resize"],
                version=after["version"],
            )
        )
    return rows


def _verdict(before: Mapping[str, Any] | None, after: Mapping[str, Any], larger: bool | None) -> str:
    """Whether a change is for the better, beyond the errors of sampling; see `ScoreRow`."""
    if before is None or larger is None or after["value"] == before["value"]:
        return ""
    gain = (after["value"] - before["value"]) * (1 if larger else -1)
    error = math.hypot(*(score.get("standard_error") or 0.0 for score in (before, after)))
    if abs(gain) <= CLEAR * error:
        return "not clear"
    return "better" if gain > 0 else "worse"


def larger_is_better(metric: str) -> bool | None:
    """The direction of a metric that a run measures; None of one that is none of ours."""
    from matchgraph.training.measure.names import DISTANCES

    if metric in KNOWN_METRICS:
        return KNOWN_METRICS[metric].larger_is_better
    return False if metric.rpartition("_")[2] in DISTANCES else None


def pictures_of(folder: Path) -> list[Picture]:
    """The grids of a run that are there, each small enough for a page."""
    return [
        _picture(folder / name, title)
        for title, name in (
            ("Before fine-tuning", GRID_BEFORE_FILE),
            ("After fine-tuning", GRID_FILE),
            ("Real images with the same captions", GRID_REAL_FILE),
        )
        if (folder / name).is_file()
    ]


def facts(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested values to names and words; None and empty lists are left out.

    Args:
        values: JSON-ready values; names within a nested one follow its own name and a point.
        prefix: what all names start with.

    Returns:
        Name and value of each fact, in the order given.
    """
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += facts(value, f"{prefix}{name}.")
        elif value is not None and value != []:
            rows.append((f"{prefix}{name}", in_words(value)))
    return rows


def halves(rows: Sequence[tuple[str, str]]) -> list[Sequence[tuple[str, str]]]:
    """Rows for two tables side by side."""
    middle = -(-len(rows) // 2)
    return [half for half in (rows[:middle], rows[middle:]) if half]


def _happened(record: Mapping[str, Any], happened: Mapping[str, Any]) -> dict[str, Any]:
    """What the run as a whole took, and then what the training tells, its long lists left out."""
    own = {name: value for name, value in record["measured"].items() if name not in ("finetuned", "initial")}
    own.update(
        {name: value for name, value in record["with"].items() if not isinstance(value, Mapping | list)}
    )
    own.update({name: value for name, value in happened.items() if name != "losses"})
    return own


def _with_deviation(score: Mapping[str, Any]) -> str:
    value, deviation = score["value"], score.get("standard_error")
    if not deviation:
        return in_words(value)
    digits = max(0, 1 - math.floor(math.log10(deviation)))
    return f"{value:.{digits}f} ± {deviation:.{digits}f}"


def _picture(file: Path, title: str) -> Picture:
    from PIL import Image

    with Image.open(file) as image:
        reduced = max(image.size) > EMBEDDED_PX
        if not reduced:
            return Picture(title, _uri("png", file.read_bytes()), *image.size, file.name, reduced)
        smaller = image.convert("RGB")
    smaller.thumbnail((EMBEDDED_PX, EMBEDDED_PX), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    smaller.save(content, "JPEG", quality=EMBEDDED_QUALITY)
    return Picture(title, _uri("jpeg", content.getvalue()), *smaller.size, file.name, reduced)


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
