"""The page of a run: all of the record, what others wrote only as text, nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from matchgraph.ingest.runs.pages import EMBEDDED_PX, facts, score_rows, write_run_page
from tests.ingest.records import HOSTILE, record, score

ROOT = Path(__file__).parents[2]


class Reader(HTMLParser):
    """Collects what a browser would show, and what it would load or run."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self._hidden = False
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._hidden = tag in ("style", "script")
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._hidden = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._hidden else data


def save_grid(file: Path, side: int) -> None:
    Image.effect_noise((side, side), 80).convert("RGB").save(file)


def test_the_whole_record_is_told(tmp_path: Path) -> None:
    seen = Reader(write_run_page(tmp_path, record(resumed_at=[2])))
    for fact in ("tiny", "cats", "0123456789abcdef", "25", "12.5", "−50.0 %", "0.0120 ± 0.0021", "inception"):
        assert fact in seen.text
    for name, value in {"steps": "3", "captions_truncated": "4", "versions.torch": "2.15.0"}.items():
        assert name in seen.text
        assert value in seen.text
    assert "1,110 real, 96 generated" in seen.text
    assert "78f51468e0451540" in seen.text
    assert "interrupted and resumed" in seen.text
    assert "<svg" in (tmp_path / "index.html").read_text()
    assert (tmp_path / "loss.svg").read_text().startswith("<svg")


def test_what_others_wrote_is_only_text(tmp_path: Path) -> None:
    save_grid(tmp_path / "samples.png", 8)
    plain = Reader(write_run_page(tmp_path, record(note="a")))
    hostile = record(HOSTILE, HOSTILE, note=HOSTILE)
    hostile["with"]["prompts"] = [HOSTILE, HOSTILE]
    seen = Reader(write_run_page(tmp_path, hostile))
    assert seen.tags == plain.tags
    assert not seen.handlers
    # Title, heading and what was asked: two each; then the note and the prompts.
    assert seen.text.count(HOSTILE) == 2 + 2 + 2 + 1 + 2


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    save_grid(tmp_path / "samples.png", 64)
    seen = Reader(write_run_page(tmp_path, record()))
    assert "script" not in seen.tags
    assert "link" not in seen.tags
    elsewhere = [address[:22] for address in seen.addresses if not address.startswith("#loss-")]
    assert elsewhere == ["data:image/png;base64,"]
    assert "default-src 'none'" in (tmp_path / "index.html").read_text()


def test_all_grids_are_shown_and_a_large_one_reduced(tmp_path: Path) -> None:
    save_grid(tmp_path / "samples_before.png", 64)
    save_grid(tmp_path / "real.png", 32)
    save_grid(tmp_path / "samples.png", 2 * EMBEDDED_PX)
    seen = Reader(write_run_page(tmp_path, record()))
    before, after, real = (
        base64.b64decode(address.partition(",")[2]) for address in seen.addresses if "base64" in address
    )
    assert before == (tmp_path / "samples_before.png").read_bytes()
    assert Image.open(io.BytesIO(after)).size == (EMBEDDED_PX, EMBEDDED_PX)
    assert real == (tmp_path / "real.png").read_bytes()
    titles = ("Before fine-tuning", "After fine-tuning", "Real images")
    assert sorted(titles, key=seen.text.index) == list(titles)
    assert "in full: samples.png" in seen.text
    assert "in full: samples_before.png" not in seen.text


def test_a_record_that_tells_little_still_has_a_page(tmp_path: Path) -> None:
    bare = record()
    bare["measured"]["initial"] = []
    bare["with"] = {"attempt": 1}
    seen = Reader(write_run_page(tmp_path, bare))
    assert "No losses are recorded." in seen.text
    assert "before" not in seen.text
    assert "img" not in seen.tags
    assert not (tmp_path / "loss.svg").exists()


def test_facts_are_flat_and_say_something() -> None:
    values = {"a": {"b": 1, "c": {"d": "x"}}, "none": None, "empty": [], "no": False, "list": [1, 2]}
    assert facts(values) == [("a.b", "1"), ("a.c.d", "x"), ("no", "false"), ("list", "[1, 2]")]


def test_better_depends_on_the_metric() -> None:
    told = record()
    told["measured"] = {
        "finetuned": [score(name, 2.0) for name in ("clip_fid", "clip_score", "dinov2_kid", "own")],
        "initial": [score(name, 1.0) for name in ("clip_fid", "clip_score", "dinov2_kid", "own")],
    }
    rows = {row.metric: (row.better, row.verdict, row.change) for row in score_rows(told)}
    assert rows == {
        "clip_fid": ("smaller", "worse", "+100.0 %"),
        "clip_score": ("larger", "better", "+100.0 %"),
        "dinov2_kid": ("smaller", "worse", "+100.0 %"),
        "own": ("", "", "+100.0 %"),
    }


@pytest.mark.parametrize(("error", "verdict"), [(0.3, "better"), (0.4, "not clear")])
def test_a_change_within_the_errors_of_sampling_is_not_judged(error: float, verdict: str) -> None:
    told = record()
    told["measured"] = {
        "finetuned": [score("clip_fid", 1.0, standard_error=error)],
        "initial": [score("clip_fid", 2.0, standard_error=error)],
    }
    assert [row.verdict for row in score_rows(told)] == [verdict]


def test_a_page_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run_page(tmp_path, record())
    before = (tmp_path / "index.html").read_text()

    def full(_: Path, target: Path) -> None:
        raise OSError(f"no room for {target.name}")

    monkeypatch.setattr("matchgraph.training.files.publish", full)
    with pytest.raises(OSError, match="no room"):
        write_run_page(tmp_path, record("another"))
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "loss.svg"}
    assert (tmp_path / "index.html").read_text() == before


def test_templates_are_installed_with_the_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["matchgraph.ingest.runs"]
    packaged = {file for pattern in patterns for file in (ROOT / "ingest" / "runs").glob(pattern)}
    assert {file.name for file in packaged} == {
        file.name for file in (ROOT / "ingest" / "runs" / "templates").iterdir()
    }
    assert {"run.html.jinja", "card.md.jinja"} <= {file.name for file in packaged}
