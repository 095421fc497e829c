"""`matchgraph`: the root command group, which loads each package's commands on first use.

Loading on first use keeps `matchgraph --help` and the graph-only commands free of torch and its seconds of
start-up.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from matchgraph.cli.groups import SuggestingGroup
from matchgraph.errors import Error

COMMANDS: dict[str, tuple[str, str]] = {
    "graph": ("matchgraph.cli.graph:graph", "Start, stop and inspect the managed Neo4j and its graph."),
    "doctor": ("matchgraph.cli.doctor:doctor", "Check this machine, and say what to do."),
    "query": (
        "matchgraph.cli.query:query",
        "Explore the graph with named Cypher queries or your own.",
    ),
    "ingest": (
        "matchgraph.cli.ingest:ingest",
        "Add models, datasets, results and fine-tuning runs to the graph.",
    ),
    "predict": (
        "matchgraph.cli.predict:predict",
        "Rank the models for a dataset or a folder of images, and measure the likeliest if asked.",
    ),
    "evaluate": (
        "matchgraph.cli.predict:evaluate",
        "Leave-one-dataset-out accuracy of the prediction, against baselines.",
    ),
    "collaborate": (
        "matchgraph.cli.collaborate:collaborate",
        "Draw with a cheap student, and let its teacher improve rejected images.",
    ),
    "choose": (
        "matchgraph.cli.choose:choose",
        "Choose model, candidate and teacher for prompts in one go.",
    ),
    "route": (
        "matchgraph.cli.route:route",
        "Choose the model and steps that are worth their cost for a prompt.",
    ),
    "report": (
        "matchgraph.cli.report:report",
        "Run the paper's full evaluation on the graph and write it as one page.",
    ),
    "ui": ("matchgraph.cli.ui:ui", "Choose models, watch runs and walk the graph in a web browser."),
}
# What scripts of version 0.1 still call; each use names what it is called now.
MOVED = {"distill": "collaborate", "student": "collaborate", "export": "graph"}
RENAMED = {"output": "out", "checkpoint-every": "checkpoint-steps"}
USER_ERROR_EXIT = 2
INTERRUPTED_EXIT = 130
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
FORBIDDEN_ADVICE = (
    "Give this user access to it, or name another folder: MATCHGRAPH_HOME for the graph and its runs, "
    "MATCHGRAPH_CACHE for what is fetched."
)


class LazyGroup(SuggestingGroup):
    """A click group whose commands are imported only when one of them is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name][0].split(":")
        return getattr(importlib.import_module(module), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See `click.Group`; earlier names of commands go on working."""
        if args[0] in MOVED:
            click.echo(f"`matchgraph {args[0]}` is now `matchgraph {MOVED[args[0]]} {args[0]}`.", err=True)
            args = [MOVED[args[0]], *args]
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


def present_name(option: str) -> str:
    """The name that an option has now, without its dashes."""
    if option not in RENAMED:
        return option
    click.echo(f"--{option} is now --{RENAMED[option]}.", err=True)
    return RENAMED[option]


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": present_name},
)
@click.version_option(package_name="matchgraph")
def matchgraph() -> None:
    """Choose the right text-to-image model for a dataset, from a matching graph in Neo4j."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Errors a user can cause (`matchgraph.Error`) become one line on stderr and
    exit code 2; anything else keeps its traceback, since it is a defect of ours.

    Args:
        arguments: the command line without the program's name; None for that of the process.

    Returns:
        The exit code: 0, 2 for a user error, 130 after Ctrl-C.
    """
    try:
        result: Any = matchgraph.main(args=arguments, prog_name="matchgraph", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted. Run the same command again to resume.", err=True)
        return INTERRUPTED_EXIT
    except OSError as error:
        if error.errno in FORBIDDEN:
            click.echo(f"Error: {_without_controls(str(error))}. {FORBIDDEN_ADVICE}", err=True)
            return USER_ERROR_EXIT
        if error.errno not in FULL:
            raise
        click.echo(f"Error: {error}. Free some space there and run the same command again.", err=True)
        _discard_stdout()
        return USER_ERROR_EXIT
    except Error as error:
        click.echo(f"Error: {_without_controls(str(error))}", err=True)
        return USER_ERROR_EXIT
    return result if isinstance(result, int) else 0


def _without_controls(message: str) -> str:
    """Spell out control characters: a file's name must not clear or colour the terminal it is shown on."""
    controls = (*range(10), *range(11, 32), *range(127, 160))
    return message.translate({code: f"\\x{code:02x}" for code in controls})


def _discard_stdout() -> None:
    """Drop unwritten output: at exit the interpreter would try again and change the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def main() -> NoReturn:
    """Entry point of the `matchgraph` command."""
    # Threads that wait for each other sleep. If they spin on a busy machine, they keep those they wait for
    # from running: a training step of a tiny model then takes more than ten times as long. Read when torch is
    # loaded, by this process and its workers; it changes no result.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.warnoptions:
        # Of use to the authors of libraries alone; `python -W` and PYTHONWARNINGS show them.
        warnings.simplefilter("ignore", FutureWarning)
    for stream in (sys.stdout, sys.stderr):
        # A name may hold what the terminal's encoding lacks, or be no text at all; None is a closed stream.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run())
