"""What the README and the documentation show: commands and code that exist, links that lead somewhere, and
output that is printed.

A block marked `sh` holds commands as they are typed, one marked `python` code against the public API, and one
marked `text` what the commands above it print. `make docs` checks the links between pages of the site.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

import matchgraph as package
from matchgraph import api
from matchgraph.cli.main import matchgraph
from matchgraph.ingest.runs.candidates import Measurable, measurable_models
from matchgraph.minizoo import ROOT as ZOO
from matchgraph.training.pipelines.families import FAMILIES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "bench/README.md", ROOT / "minizoo/README.md"]
)
README = ROOT / "README.md"
MOST_LINES = 150
EXTRAS = {
    *tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
}
BLOCK = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
PLACEHOLDER = re.compile(r"\.\.\.|…")
# Seconds instead of minutes; what is checked is that the commands work together.
FASTER = {"--steps": "1", "--samples": "8", "--batch-size": "2", "--sampling-steps": "1"}
KEPT_DATASETS = 8


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def commands(text: str) -> Iterator[list[str]]:
    """The command lines of a block, split into words, without comments and prompts."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in line.split("; ") if "; matchgraph" in line else [line]:
            if words := shlex.split(part, comments=True):
                yield words


def resolved(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words after `matchgraph` call, and its own arguments."""
    command: click.Command = matchgraph
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        below = command.get_command(click.Context(command), words[0])
        assert below is not None, f"there is no command {words[0]!r}"
        command, words = below, words[1:]
    return command, words


def anchor(heading: str) -> str:
    """The anchor of a heading, as GitHub and MkDocs make it."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist_with_their_options(page: Path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in (words for block in blocks(page, "sh") for words in commands(block)):
        line = " ".join(words)
        match words:
            case ["make", *rest]:
                assert {word for word in rest if "=" not in word} <= targets, line
            case ["pip", "install", *rest] if "[" in rest[-1]:
                assert set(rest[-1].partition("[")[2].rstrip("]").split(",")) <= EXTRAS, line
            case ["matchgraph", *rest] if not PLACEHOLDER.search(line):
                command, arguments = resolved(rest)
                context = click.Context(command, info_name=line)
                given, _, order = command.make_parser(context).parse_args(arguments)
                absent = [
                    one.name
                    for one in command.params
                    if one.required and not one.envvar and one.name not in given
                ]
                assert not absent, f"{line}: {absent} of {order}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_code_uses_what_the_public_api_has(page: Path):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                owner = {"graph": api.Graph, "matchgraph": package}.get(node.value.id)
                assert owner is None or hasattr(owner, node.attr), f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize("page", [page for page in PAGES if DOCS not in page.parents], ids=name_of)
def test_links_lead_to_files_and_headings(page: Path):
    for link in LINK.findall(re.sub(BLOCK, "", page.read_text(encoding="utf-8"))):
        path, _, heading = link.partition("#")
        if link.startswith(("http://", "https://")):
            continue
        target = page if not path else (page.parent / path)
        assert target.exists(), link
        if heading:
            known = {anchor(found) for found in HEADING.findall(target.read_text(encoding="utf-8"))}
            assert heading in known, link


def test_contributing_lists_every_extra():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = text.partition("| extra |")[2].partition("\n\n")[0].splitlines()[2:]
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert sorted(named) == sorted(EXTRAS)


def test_the_makefile_runs_no_command_under_an_earlier_name():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    called = re.findall(r"\$\(MATCHGRAPH\) ([a-z]+)", text)
    assert called
    assert set(called) <= set(matchgraph.list_commands(click.Context(matchgraph)))


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_the_readme_shows_the_families_of_the_registry():
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    shown = re.findall(r"`(\w+)`", "".join(rows))
    assert shown == [pipeline.removesuffix("Pipeline") for pipeline, _ in FAMILIES.values()]


# Turns of phrase that a native engineer stumbles on.
STUMBLED_OVER = re.compile(
    r"\b(foretell|alike by|those alike|said to be so|out of reach of who|by by\b|reckon|anew\b|mended|"
    r"take so many|where it was chosen|no numbers with|the one of|waits? in the computer's|"
    r"(is|are|has|holds) no (row|list|part|option|value) of|as good as its word|too little is known)",
    re.IGNORECASE,
)


def helps(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    """The help of a command and of all below it."""
    context = click.Context(command, info_name=name)
    yield name, command.get_help(context)
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from helps(found, f"{name} {below}")


def test_help_and_pages_are_in_plain_english():
    texts = {name_of(page): page.read_text(encoding="utf-8") for page in PAGES} | dict(
        helps(matchgraph, "matchgraph")
    )
    stumbled = {
        name: found[0]
        for name, text in texts.items()
        if (found := STUMBLED_OVER.search(" ".join(text.split())))
    }
    assert not stumbled
    # No list of commands is cut to the width of a line.
    assert not [name for name, text in texts.items() if re.search(r"^  [a-z].*\.\.\.$", text, re.MULTILINE)]


def section(title: str) -> str:
    return README.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def shell_of(text: str) -> list[list[str]]:
    return [words for language, body in BLOCK.findall(text) if language == "sh" for words in commands(body)]


def follow(lines: list[list[str]], environment: Mapping[str, str]) -> str:
    """Run commands of the README one after another; their output, with runs of blanks as one."""
    own, shown = dict(environment), ""
    for words in lines:
        if words[0] == "export":
            own.update(word.split("=", 1) for word in words[1:])
            continue
        for number, word in enumerate(words[:-1]):
            if word in FASTER:
                words[number + 1] = FASTER[word]
        result = CliRunner().invoke(matchgraph, words[1:], env=own, catch_exceptions=False)
        assert result.exit_code == 0, f"{' '.join(words)}: {result.output}"
        shown += result.output
    return re.sub(r" +", " ", shown)


def printed(text: str) -> list[str]:
    """The lines of a section's `text` blocks, with runs of blanks as one."""
    lines = [
        line for language, body in BLOCK.findall(text) if language == "text" for line in body.splitlines()
    ]
    return [" ".join(line.split()) for line in lines]


def first_three(text: str) -> set[str]:
    """The models on the first three places. Walks, and with them close places, depend on the database."""
    return set(re.findall(r"^ ?[123] (tiny-\S+) ", text, re.MULTILINE))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the zoo as in a checkout; its records without prompts, which load slowly."""
    for name in ("datasets", "models", "probes"):
        (tmp_path / "minizoo").mkdir(exist_ok=True)
        (tmp_path / "minizoo" / name).symlink_to(ZOO / name)
    left_out = shutil.ignore_patterns("prompts*", "variants*", "scores*")
    shutil.copytree(ZOO / "records", tmp_path / "packaged" / "records", ignore=left_out)
    packaged = SimpleNamespace(files=lambda _: tmp_path / "packaged", as_file=resources.as_file)
    monkeypatch.setattr("matchgraph.ingest.workflow.resources", packaged)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_readme_from_the_demo_to_a_decision(
    checkout: Path, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
):
    def quick(*arguments: str) -> dict[str, Measurable]:
        found = measurable_models(*arguments)
        return {
            name: replace(own, config=replace(own.config, steps=2, samples=4, sampling_steps=1))
            for name, own in found.items()
        }

    monkeypatch.setattr("matchgraph.shortlist.measurable_models", quick)
    shutil.copytree(ZOO / "datasets/openmoji-food", checkout / "my-images")
    demo = section("What the demo shows")
    shown = follow(shell_of(demo), {**environment, "COLUMNS": "120"})
    lines = printed(demo)
    assert first_three("\n".join(lines)) == first_three(shown)
    for line in [line for line in lines if line.startswith("tiny-")]:
        assert line in shown
    decided = follow(shell_of(section("Your own images")), environment)
    assert "3 of 10 models are measured" in decided
    follow(shell_of(section("The graph")), environment)


@pytest.mark.usefixtures("checkout")
def test_the_readme_from_tables_to_an_evaluation(environment: Mapping[str, str]):
    models, datasets = [f"m{number}" for number in range(4)], [f"d{number}" for number in range(5)]
    rows = [
        f"{m},{d},clip_fid,{3 * i + (i * j) % 5 + 1}"
        for i, m in enumerate(models)
        for j, d in enumerate(datasets)
    ]
    Path("models.csv").write_text("\n".join(["model,tflop", *(f"{m},{len(m)}" for m in models)]))
    Path("datasets.csv").write_text(
        "\n".join(["dataset,e0,e1", *(f"{d},{j},{j * j}" for j, d in enumerate(datasets))])
    )
    Path("results.csv").write_text("\n".join(["model,dataset,metric,value", *rows]))
    own = {**environment, "MATCHGRAPH_PROBE": "minizoo/probes/clip"}
    assert "Overall" in follow(shell_of(section("Your own zoo")), own)
