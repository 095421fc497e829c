"""`matchgraph collaborate distill` in process, on a tiny pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from matchgraph.cli.main import run
from matchgraph.training.pipelines.loading import load_pipeline
from matchgraph.training.tune.checkpoint import checkpoint_step
from matchgraph.training.tune.student_folder import RECORD_FILE
from tests.training import tiny
from tests.training.hub import put_into_cache, use_cache

OPTIONS = (
    *("--steps", "3", "--batch-size", "2", "--rank", "4", "--solver-steps", "10", "--teacher-steps", "2"),
    *("--resolution", "64", "--device", "cpu", "--guidance", "2", "--checkpoint-steps", "1"),
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("sd", tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n\n  a dog \n")
    return file


def test_a_student_is_made_and_described(
    teacher: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "student"
    asked = [
        "collaborate",
        "distill",
        str(teacher),
        "--prompts",
        str(prompts),
        "--out",
        str(output),
        *OPTIONS,
        "--json",
    ]
    assert run(asked) == 0
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert record.pop("folder") == str(output)
    assert record == json.loads((output / RECORD_FILE).read_text())
    assert (record["config"]["steps"], record["config"]["alpha"], record["data"]["prompts"]) == (3, 4, 2)
    assert "To draw: 2 images, " in shown.err
    assert "2 of 2 images" in shown.err
    assert "Step 2 of 3" in shown.err
    assert "Step 3 of 3" in shown.err
    pipe, _ = load_pipeline(output, device="cpu")
    assert type(pipe.scheduler).__name__ == "LCMScheduler"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.txt", "student"]
    assert run(asked) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_teacher_may_be_named_as_on_the_hub(
    teacher: Path,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_cache(monkeypatch, tmp_path / "cache")
    put_into_cache(tmp_path / "cache", "someone/sd-tiny", teacher)
    output = tmp_path / "student"
    asked = ["--prompts", str(prompts), "--out", str(output), *OPTIONS]
    assert run(["collaborate", "distill", "someone/else", *asked]) == 2
    assert "There is no folder someone/else here, and the hub's model" in capsys.readouterr().err
    assert run(["collaborate", "distill", "someone/sd-tiny", *asked]) == 0
    assert "a student of someone/sd-tiny," in capsys.readouterr().out
    load_pipeline(output, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("restarted", [False, True])
def test_an_interrupted_command_continues_or_starts_over(
    restarted: bool,
    teacher: Path,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, work = tmp_path / "student", tmp_path / "student.partial"
    asked = [
        "collaborate",
        "distill",
        str(teacher),
        "--prompts",
        str(prompts),
        "--out",
        str(output),
        *OPTIONS,
    ]

    def stop(line: str, **_: object) -> None:
        if line.startswith("Step 2 "):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("matchgraph.cli.distill.SHOWN_EVERY_STEPS", 1)
        patch.setattr("matchgraph.cli.distill.click.echo", stop)
        assert run(asked) == 130
    assert checkpoint_step(work) == 2
    assert not output.exists()
    if restarted:
        assert run([*asked, "--seed", "1"]) == 2
        assert "its seed is 0, this one's 1" in capsys.readouterr().err
        assert run([*asked, "--seed", "1", "--restart"]) == 0
    else:
        assert run(asked) == 0
    resumed = json.loads((output / RECORD_FILE).read_text())["happened"]["resumed_at"]
    assert resumed == ([] if restarted else [2])
    assert "3 steps on 2 images" in capsys.readouterr().out
    assert not work.exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "either --prompts FILE or --images FOLDER"),
        (("--prompts", "blank.txt"), "holds no prompt"),
        (("--prompts", "latin.txt"), "not text in UTF-8"),
        (("--prompts", "prompts.txt", "--ema", "1"), "'--ema': 1.0 is not in the range"),
        (("--prompts", "prompts.txt", "--images", "."), "either --prompts FILE or --images FOLDER"),
        (("--images", "."), "no images"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    given: tuple[str, ...],
    message: str,
    teacher: Path,
    prompts: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(prompts.parent)
    Path("blank.txt").write_text("\n \n")
    Path("latin.txt").write_bytes("Käse".encode("latin-1"))
    assert run(["collaborate", "distill", str(teacher), "--out", "student", *OPTIONS, *given]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert not Path("student").exists()


def test_images_are_read_by_the_column_named_and_what_they_lack_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "title": "a cat", "other": ""}')
    asked = ["collaborate", "distill", str(tmp_path / "no-teacher"), "--images", str(tmp_path)]
    asked += ["--out", str(tmp_path / "out")]
    for column, note in ((None, "none of its 1 images has a caption"), ("title", "column 'other' not read")):
        assert run([*asked, *(["--caption-column", column] if column else [])]) == 2
        said = capsys.readouterr().err
        assert note in said
        assert ("none of its" in said) == (column is None)
        assert "no-teacher" in said
