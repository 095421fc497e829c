"""Pages of the documentation that are made from code, and files of the repository that are pages as well.

MkDocs calls `on_files`; nothing is written into the repository.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from matchgraph.cli.main import COMMANDS
from matchgraph.graphdb import queries
from matchgraph.graphdb.metrics import DEFAULT_METRIC, KNOWN_METRICS
from matchgraph.training.measure.extractors import KINDS
from matchgraph.training.pipelines.families import ALIASES, FAMILIES

ROOT = Path(__file__).resolve().parent.parent
# Page -> file of the repository.
TAKEN = {
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "evidence/measurements.md": "bench/README.md",
    "evidence/small-zoo.md": "minizoo/README.md",
    "evidence/configurations.md": "zoo/README.md",
}
PICTURES = {"evidence/samples.png": "minizoo/samples.png"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    texts = {
        page: relinked((ROOT / source).read_text(encoding="utf-8"), page) for page, source in TAKEN.items()
    }
    texts |= {
        "reference/commands.md": commands_page(),
        "reference/queries.md": queries_page(),
        "reference/metrics.md": metrics_page(),
        "reference/families.md": families_page(),
        "evidence/results.md": results_page(),
    }
    for page, text in texts.items():
        files.append(File.generated(config, page, content=text))
    for page, source in PICTURES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def relinked(text: str, page: str) -> str:
    """The text of a repository file with its links as the page needs them; what is no page becomes code."""
    source = TAKEN[page]
    places = {file: to for to, file in (TAKEN | PICTURES).items()}

    def replace(found: re.Match[str]) -> str:
        picture, words, target, heading = found.groups()
        if "://" in target:
            return found[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        to = places.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        if to is None:
            return f"{words} (`{file}`)"
        return f"{picture}[{words}]({posixpath.relpath(to, posixpath.dirname(page) or '.')}{heading or ''})"

    return LINK.sub(replace, text)


def commands_page() -> str:
    """All commands with their options, from their definitions."""
    parts = [
        "# Commands\n\nMade from the commands themselves; `--help` of each prints the same. Commands that print data take `--json`. "
        "The exit code is 0, 1 where a command's help says so, 2 for an error that you can correct, and 130 after "
        "Ctrl-C.\n"
    ]
    for name, (where, _) in COMMANDS.items():
        module, attribute = where.split(":")
        parts.append(
            f"\n::: mkdocs-click\n    :module: {module}\n    :command: {attribute}\n"
            f"    :prog_name: matchgraph {name}\n    :depth: 1\n    :style: table\n    :list_subcommands: True\n"
        )
    return "".join(parts)


def queries_page() -> str:
    """The named queries with their parameters and statements."""
    parts = [
        "# Queries\n\n`matchgraph query NAME` runs one, `graph.query(NAME, ...)` does so from Python. Each is a file in "
        "`cypher/explore/`, and reads only. [Explore the graph](../how-to/explore.md) shows how.\n"
    ]
    for info in queries.catalogue():
        parts.append(f"\n## {info.name}\n\n**{info.title}.** {info.description}\n\n")
        if info.parameters:
            rows = [
                f"| `--{one.name}` | {one.type} | {'required' if one.required else f'`{one.default}`'} | {one.help} |"
                for one in info.parameters
            ]
            parts.append("\n".join(["| option | type | default | |", "|---|---|---|---|", *rows]) + "\n\n")
        lines = queries.load(f"{queries.EXPLORE}/{info.name}").splitlines()
        statement = "\n".join(line for line in lines if not line.startswith("//"))
        parts.append(f"```cypher\n{statement}\n```\n")
    return "".join(parts)


def metrics_page() -> str:
    """The metrics whose direction and range are known, and the extractors that can measure."""
    rows = [
        f"| `{one.name}`{' (default)' if one.name == DEFAULT_METRIC else ''} | "
        f"{'larger' if one.larger_is_better else 'smaller'} | {span(one.minimum, one.maximum)} |"
        for one in KNOWN_METRICS.values()
    ]
    kinds = ", ".join(f"`{kind}`" for kind in KINDS)
    return (
        "# Metrics\n\nThese metrics have a known direction and range. Any other name is a metric of your own: give its "
        "direction once with `--larger-is-better` or `--smaller-is-better`, and the graph keeps it.\n\n"
        "| metric | better | range |\n|---|---|---|\n" + "\n".join(rows) + "\n\n"
        "`ingest run` and `ingest datasets` measure `EXTRACTOR_DISTANCE`: a Frechet distance (`fid`), `kid` or `cmmd` on "
        f"the features of an extractor. Kinds of extractors: {kinds}. "
        "[Measure with other features](../how-to/metrics.md) shows how.\n"
    )


def span(low: float | None, high: float | None) -> str:
    """A range in words."""
    if low is None and high is None:
        return "any"
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}"


def families_page() -> str:
    """The pipeline classes that can be fine-tuned and sampled."""
    rows = [f"| `{name}` | `{pipeline}` | `{module}` |" for name, (pipeline, module) in FAMILIES.items()]
    aliases = ", ".join(f"`{pipeline}` (as `{name}`)" for pipeline, name in ALIASES.items())
    return (
        "# Model families\n\nPipelines of these diffusers classes are fine-tuned, sampled and priced. Others can be nodes of "
        "the graph with results that were measured elsewhere. Playground v2.5 is trained by the objective of its EDM scheduler.\n\n| family | pipeline class | module |\n|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\nAlso: {aliases}. [Contributing](../contributing.md#how-to-add) says how to add one.\n\n"
        "Left out, and why: Sana-Sprint is trained by distillation from a teacher, and no objective for fine-tuning it is "
        "published. The folder of HiDream-I1 lacks its fourth text encoder (Llama 3.1), which has to be given apart. CogView4 "
        "fills each prompt up to the longest of its batch without a mask, so a prompt has no encoding of its own to be kept. "
        "Hunyuan-DiT's published training also fits the variance by a variational bound, and diffusers has no loader for its LoRAs "
        "and no gradient checkpointing for its transformer.\n"
    )


def results_page() -> str:
    """The result files of the measurements, with how each was made."""
    rows = []
    for file in sorted((ROOT / "bench/results").glob("*.json")):
        found: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        about = {**(found.get("provenance") or {}), **found}
        command = about.get("command")
        machine = about.get("machine") or {}
        words = [f"{machine['cpus']} cores" if machine.get("cpus") else "", machine.get("note") or ""]
        versions = ", ".join(f"{name} {number}" for name, number in (about.get("versions") or {}).items())
        cells = [
            f"`{file.name}`",
            f"`{command}`" if command else "",
            ", ".join(filter(None, words)),
            versions,
        ]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return (
        "# Result files\n\nEach file in `bench/results/` has its figures with the command, the seeds, the machine and the "
        "versions they were made with. They do not record a date: that of their commit is the date of the measurement. "
        "[Measurements](measurements.md) explains what they show.\n\n"
        "| file | command | machine | versions |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def on_page_content(html: str, **_: Any) -> str:
    """Take out the mark by which click says that there is no default, which mkdocs-click 0.9 prints."""
    return html.replace("<code>Sentinel.UNSET</code>", "")
