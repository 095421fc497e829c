"""The root group: light to start, complete in its help, and one line for what a user did wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from matchgraph.cli import main as cli_main
from matchgraph.errors import Error

HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "open_clip",
    "catboost",
    "sklearn",
    "pandas",
    "graphdatascience",
)


def walk(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    """List a command and all below it with their paths."""
    found = [(path, command)]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found += walk(command.get_command(context, name), (*path, name))
    return found


def test_the_help_of_every_command_loads_nothing_heavy():
    paths = [path for path, _ in walk(cli_main.matchgraph)]
    script = (
        "import sys\n"
        "from matchgraph.cli.main import run\n"
        f"codes = {{run([*path, '--help']) for path in {paths}}}\n"
        f"print(codes, sorted({set(HEAVY)} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "{0} []"
    for name in cli_main.COMMANDS:
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize(
    ("words", "completed"), [("matchgraph pred", "plain,predict"), ("matchgraph graph sta", "plain,start")]
)
def test_a_shell_completes_commands(words: str, completed: str):
    environment = {
        **os.environ,
        "_MATCHGRAPH_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    script = "from matchgraph.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert completed in done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize(
    ("path", "command"), walk(cli_main.matchgraph), ids=lambda v: " ".join(v) if isinstance(v, tuple) else ""
)
def test_every_command_and_option_says_what_it_does(path: tuple[str, ...], command: click.Command):
    assert command.help, f"{' '.join(path)} has no help"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{' '.join(path)} {parameter.opts[0]} has no help"


def test_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]):
    assert cli_main.run(["fly"]) == 2
    assert "There is no command 'fly'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "notice"),
    [
        (["student", "--help"], "`matchgraph student` is now `matchgraph collaborate student`."),
        (["distill", "--output", "x", "--help"], "--output is now --out."),
        (["distill", "--checkpoint-every=5", "--help"], "--checkpoint-every is now --checkpoint-steps."),
    ],
)
def test_earlier_names_go_on_working(arguments: list[str], notice: str, capsys: pytest.CaptureFixture[str]):
    assert cli_main.run(arguments) == 0
    out, err = capsys.readouterr()
    assert f"collaborate {arguments[0]}" in out
    assert notice in err


def test_a_value_may_look_like_an_earlier_option(capsys: pytest.CaptureFixture[str]):
    assert cli_main.run(["query", "best-models", "--dataset", "--output", "--help"]) == 0
    assert not capsys.readouterr().err


def test_user_error_is_one_line_and_exit_code_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(**_: object) -> None:
        raise Error("models.csv:3: params is 'many'; give a number")

    monkeypatch.setattr(cli_main.matchgraph, "main", fail)
    assert cli_main.run([]) == 2
    assert capsys.readouterr().err == "Error: models.csv:3: params is 'many'; give a number\n"


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def fail(**_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli_main.matchgraph, "main", fail)
    with pytest.raises(ZeroDivisionError):
        cli_main.run([])


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_the_process_is_set_up_for_any_encoding_threads_that_sleep_and_no_warnings_of_libraries(
    given: str | None,
):
    script = (
        "import os, warnings; from matchgraph.cli import main as m\n"
        "def main(**_):\n"
        "    warnings.warn('of a library', FutureWarning)\n"
        "    print('τ \\udcff', os.environ['OMP_WAIT_POLICY'])\n"
        "m.matchgraph.main = main; m.main()"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"} | ({"OMP_WAIT_POLICY": given} if given else {})
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == f"\\u03c4 \\udcff {given or 'PASSIVE'}\n"
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no device that is always full")
def test_a_full_disk_is_one_line():
    script = "from matchgraph.cli.main import main; main()"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script, "query", "--json"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr == (
        "Error: [Errno 28] No space left on device. Free some space there and run the same command again.\n"
    )


def test_interrupting_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_main.matchgraph, "main", interrupt)
    assert cli_main.run([]) == 130
    assert "Run the same command again" in capsys.readouterr().err


def test_the_root_help_stays_short():
    assert len(cli_main.COMMANDS) < 12
