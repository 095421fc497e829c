"""Names and files made to do harm, through the commands and a real server: kept to the letter, or refused."""

from __future__ import annotations

import csv
import json
import shutil
import struct
import unicodedata
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from matchgraph.cli.main import run
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.errors import BadInput
from matchgraph.ingest.tables import new_dataset
from tests.ingest.conftest import write_images
from tests.ingest.dump import dump

# Every name is a model's and a dataset's at once.
NAMES = (
    "plain",
    "back`tick`) DETACH DELETE n //",
    "it's a \"quote\" \\' \\\\",
    "') MATCH (n) DETACH DELETE n //",
    "//comment /* and */ --",
    "..",
    "../../etc/passwd",
    "/absolute/path",
    "C:\\windows",
    "--json",
    "-",
    "$param {brace} ${env} %s {0}",
    "=1+1",
    "nan",
    "NULL",
    "1e5",
    "true",
    "a,b;c\td".replace("\t", " "),
    "<script>alert(1)</script>",
    "日本語 🎉 naïve",
    unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"),
    "two  spaces",
    "x" * 200,
)
REFUSED = (
    "new\nline",
    "carriage\rreturn",
    "tab\there",
    "escape\x1b[2Jhere",
    "line\u2028separator",
    "x" * 201,
)
Matchgraph = Callable[..., tuple[int, str, str]]


@pytest.fixture
def matchgraph(
    environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Matchgraph:
    """Run a command line as the program does, and return its exit code, stdout and stderr."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def matchgraph(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(list(map(str, arguments)))
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return matchgraph


def answer(result: tuple[int, str, str]) -> object:
    code, out, err = result
    assert code == 0, err
    return json.loads(out)


def table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


@pytest.mark.slow
def test_names_in_tables_come_back_to_the_letter(
    matchgraph: Matchgraph, graph: MatchingGraph, tmp_path: Path
) -> None:
    count = len(NAMES)
    models = table(tmp_path / "m.csv", ["model", "params"], [[name, i + 1] for i, name in enumerate(NAMES)])
    datasets = table(
        tmp_path / "d.csv",
        ["dataset", "e0", "e1"],
        [[name, i, (7 * i) % count] for i, name in enumerate(NAMES)],
    )
    results = table(
        tmp_path / "r.csv",
        ["model", "dataset", "metric", "value"],
        [
            [m, d, "clip_fid", (3 * i + 5 * j) % 11 + 1]
            for i, m in enumerate(NAMES)
            for j, d in enumerate(NAMES)
        ],
    )
    pairs = [(a, b) for i, a in enumerate(NAMES) for b in NAMES[:i]]
    similar = table(
        tmp_path / "s.csv",
        ["dataset", "other", "metric", "value"],
        [[a, b, "clip_fid", k % 13 + 1] for k, (a, b) in enumerate(pairs)],
    )
    assert answer(matchgraph("ingest", "models", models, "--json"))["models"] == list(NAMES)
    assert answer(matchgraph("ingest", "datasets", datasets, "--json"))["datasets"] == list(NAMES)
    answer(matchgraph("ingest", "results", results, "--json"))
    answer(matchgraph("ingest", "similarities", similar, "--json"))
    assert (
        {model.id for model in graph.models()} == {dataset.id for dataset in graph.datasets()} == set(NAMES)
    )
    assert all(model.properties["name"] == model.id for model in graph.models())
    snapshot = graph.snapshot()
    assert len(snapshot.performs) == count**2
    assert {tuple(sorted(pair)) for pair in snapshot.similar[["dataset", "other"]].values} == {
        tuple(sorted(pair)) for pair in pairs
    }

    for name in NAMES[1:5]:
        found = answer(matchgraph("query", "best-models", f"--dataset={name}", "--json"))
        expected = snapshot.performs[snapshot.performs.dataset == name].value.min()
        assert found
        assert min(row["value"] for row in found) == expected
        text = f"name={json.dumps(name)}"
        one = matchgraph(
            "query", "--cypher", "MATCH (m:Model {id: $name}) RETURN m.id", "--param", text, "--json"
        )
        assert answer(one) == [{"m.id": name}]
    predicted = answer(matchgraph("predict", "--recipe", "paper", "--trees", 5, "--json", "--", "--json"))
    assert {row["model"] for row in predicted["ranking"]} == set(NAMES)
    # A second time changes nothing.
    answer(matchgraph("ingest", "results", results, "--json"))
    assert len(graph.snapshot().performs) == count**2


@pytest.mark.parametrize("kind", ["model", "dataset"])
@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_names_with_control_characters_are_refused_and_shown_without_them(
    matchgraph: Matchgraph, runner: Runner, graph: MatchingGraph, tmp_path: Path, kind: str, name: str
) -> None:
    before = dump(runner)
    path = table(tmp_path / "t.csv", [kind, "e0"], [["good", 1], [name, 2]])
    code, out, err = matchgraph("ingest", f"{kind}s", path)
    assert (code, out) == (2, "")
    assert "t.csv" in err
    assert not set(err) & {"\x1b", "\r", "\t", "\u2028"}
    assert all(len(line) < 600 for line in err.splitlines())
    assert dump(runner) == before
    assert graph.models() == graph.datasets() == []


# Folders can have no slash in their names.
MODEL = "m `tick` 'it' \"q\" <img src=x onerror=alert(1)> $x {y} 日本 #"
DATASET = "-d') DETACH DELETE n; é&amp;%s ..🎉"
RUN = {
    "--steps": 1,
    "--batch-size": 1,
    "--rank": 1,
    "--resolution": 32,
    "--samples": 2,
    "--sampling-steps": 1,
    "--device": "cpu",
}


def options(probe: Path) -> list[object]:
    return ["--probe", probe, *(part for option in RUN.items() for part in option), "--json"]


@pytest.fixture
def hostile_folders(tmp_path: Path, pipelines: Path) -> tuple[Path, Path]:
    """A pipeline folder and an image folder with names as hostile as a file system takes them."""
    model = Path(shutil.copytree(pipelines / "tiny-unet", tmp_path / "zoo" / MODEL))
    return model, write_images(tmp_path / "data" / DATASET, 3, ["a `cat`", "'; DROP", None])


@pytest.mark.slow
def test_a_run_between_folders_with_hostile_names(
    matchgraph: Matchgraph,
    graph: MatchingGraph,
    environment: Mapping[str, str],
    probe: Path,
    hostile_folders: tuple[Path, Path],
) -> None:
    model, dataset = hostile_folders
    others = write_images(dataset.with_name("other"), 4, ["x", "y"])
    kept = {path: path.read_bytes() for path in model.parents[1].rglob("*") if path.is_file()}
    assert answer(matchgraph("ingest", "models", model, "--no-throughput", "--json"))["models"] == [MODEL]
    found = answer(matchgraph("ingest", "datasets", "--probe", probe, "--json", "--", dataset, others))
    assert found["datasets"] == [DATASET, "other"]
    done = answer(matchgraph("ingest", "run", *options(probe), f"--dataset={DATASET}", f"--model={MODEL}"))
    assert (done["total"], done["done"]) == (1, 1)
    performs = graph.snapshot().performs
    assert performs[["model", "dataset"]].values.tolist() == [[MODEL, DATASET]]
    (state,) = answer(matchgraph("ingest", "status", "--json"))["runs"]
    assert (state["model"], state["dataset"], state["status"]) == (MODEL, DATASET, "DONE")
    # What the run wrote lies in its own folder, and no page takes a name for markup.
    home = Path(environment["MATCHGRAPH_HOME"]).resolve()
    adapter = (home / state["adapter"]).resolve()
    assert adapter.is_relative_to(home / "runs")
    page = (adapter.parent / "index.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert "lt;img src=x" in page
    card = ModelCard.load(adapter.parent / "README.md")
    assert "matchgraph" in card.data.tags
    assert card.data.base_model is None
    # Written beside the run alone: the folders given are as they were.
    assert kept == {path: path.read_bytes() for path in model.parents[1].rglob("*") if path.is_file()}
    # A second time there is nothing to do.
    again = answer(matchgraph("ingest", "run", *options(probe), f"--dataset={DATASET}", f"--model={MODEL}"))
    assert (again["already_done"], again["done"]) == (1, 0)


@pytest.mark.parametrize("name", ["new\nline", "escape\x1b[2J"], ids=ascii)
def test_folders_named_with_control_characters_are_refused_by_one_plain_line(
    matchgraph: Matchgraph, graph: MatchingGraph, tmp_path: Path, pipelines: Path, probe: Path, name: str
) -> None:
    model = shutil.copytree(pipelines / "tiny-unet", tmp_path / "zoo" / name)
    dataset = write_images(tmp_path / "data" / name, 3, ["a", "b"])
    for command in (["models", model], ["datasets", dataset, "--probe", probe]):
        for path in (command[1], command[1].parent):
            code, out, err = matchgraph("ingest", command[0], path, *command[2:])
            assert (code, out) == (2, "")
            assert repr(name)[1:-1] in err
            assert "\x1b" not in err
            assert name not in err
    # A path is shown as it was given, but never acts on the terminal.
    code, _, err = matchgraph("predict", dataset, "--probe", probe)
    assert code == 2
    assert "\x1b" not in err
    assert graph.models() == graph.datasets() == []


def bomb() -> bytes:
    """A PNG of a few kilobytes with ten gigabytes of pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(2_000_000), 9))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_when_its_dataset_is_added(
    matchgraph: Matchgraph, graph: MatchingGraph, tmp_path: Path, probe: Path
) -> None:
    answer(
        matchgraph(
            "ingest", "datasets", write_images(tmp_path / "good", 4, ["a", "b"]), "--probe", probe, "--json"
        )
    )
    folder = write_images(tmp_path / "photos", 3, ["a", "b", "c"])
    (folder / "1.png").write_bytes(bomb())
    code, out, err = matchgraph("ingest", "datasets", folder, "--probe", probe)
    assert (code, out) == (2, "")
    assert "1.png" in err
    assert "pixels" in err
    with pytest.raises(BadInput, match=r"1\.png"):
        new_dataset.target(folder, str(probe)).measured(graph, graph.datasets())
    assert [dataset.id for dataset in graph.datasets()] == ["good"]


@pytest.fixture
def registered(
    matchgraph: Matchgraph, tmp_path: Path, pipelines: Path, probe: Path, environment: Mapping[str, str]
) -> tuple[Path, Path, Callable[[], set[Path]]]:
    """A model and a dataset in the graph with their folders, and what adapters there are."""
    model = Path(shutil.copytree(pipelines / "tiny-unet", tmp_path / "model"))
    dataset = write_images(tmp_path / "photos", 3, ["a", "b"])
    answer(matchgraph("ingest", "models", model, "--no-throughput", "--json"))
    answer(matchgraph("ingest", "datasets", dataset, "--probe", probe, "--json"))
    runs = Path(environment["MATCHGRAPH_HOME"]) / "runs"
    return model, dataset, lambda: set(runs.rglob("*.safetensors"))


@pytest.mark.parametrize("harm", ["weights", "image"])
def test_folders_changed_since_they_were_added_are_not_run(
    matchgraph: Matchgraph, graph: MatchingGraph, probe: Path, registered: tuple, harm: str
) -> None:
    model, dataset, adapters = registered
    before = adapters()
    if harm == "weights":
        file = model / "unet" / "diffusion_pytorch_model.safetensors"
        file.write_bytes(struct.pack("<Q", 2**62) + file.read_bytes()[8:])
        again = matchgraph("ingest", "models", model)
    else:
        (dataset / "0.png").write_bytes(bomb())
        again = matchgraph("ingest", "datasets", dataset, "--probe", probe)
    code, _, err = matchgraph("ingest", "run", *options(probe))
    assert code == 2
    assert "has changed since it was ingested" in err
    assert answer(matchgraph("ingest", "status", "--json"))["runs"] == []
    assert graph.snapshot().performs.empty
    assert adapters() == before
    # Nor are they taken in as they are now.
    code, _, err = again
    assert code == 2
    assert ("diffusion_pytorch_model.safetensors" if harm == "weights" else "0.png") in err
