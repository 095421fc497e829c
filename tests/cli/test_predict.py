"""`matchgraph predict` and `matchgraph evaluate`, in process, on a real server with a real (tiny) probe."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from matchgraph.cli.main import run
from matchgraph.graphdb import queries
from matchgraph.graphdb.models import Dataset, Metric, Model, Result, Similar
from matchgraph.predictor.sentences import time_cell

FAST = ["--recipe", "paper", "--trees", "10"]
# Where any method does: in closed form.
PROCESS = ["--recipe", "gaussian"]
COLOURS = {"reds": (200, 30, 30), "rust": (180, 60, 40), "blues": (30, 40, 190), "navy": (20, 30, 140)}


def write_images(folder: Path, colour: Sequence[int], seed: int) -> Path:
    """Twelve noisy images around one colour."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(12):
        pixels = np.clip(np.array(colour) + rng.normal(0, 40, (8, 8, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def probe(tmp_path_factory) -> Path:
    """The folder of a tiny CLIP with random weights."""
    import torch

    from tests.training import tiny

    torch.set_num_threads(1)
    return tiny.save_clip(tmp_path_factory.mktemp("probe") / "tiny-clip")


@pytest.fixture
def command(environment, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in process: exit code, stdout, stderr."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MATCHGRAPH_PROBE", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return invoke


@pytest.fixture
def colours(graph, tmp_path, probe) -> Path:
    """Four image datasets in the graph: m-warm is best on warm colours, m-cold on cold ones."""
    from matchgraph.ingest.tables.datasets import ingest_image_folders
    from matchgraph.training.measure.extractors import load_clip

    for seed, (name, colour) in enumerate(COLOURS.items()):
        write_images(tmp_path / "known" / name, colour, seed)
    graph.save_models(
        [Model("m-warm", {"params": 5.0}), Model("m-cold", {"params": 7.0, "tflop": 1.5}), Model("m-bad")]
    )
    ingest_image_folders(graph, tmp_path / "known", load_clip(str(probe)))
    values = {"m-warm": (1, 1.1, 3, 3.2), "m-cold": (3.1, 3, 1, 1.2), "m-bad": (9, 9, 9, 9)}
    graph.save_results(
        [
            Result(
                model,
                dataset,
                "clip_fid",
                value,
                provenance={"training_seconds": 60.0 * i, "seconds_per_image": 0.5},
            )
            for model, row in values.items()
            for i, (dataset, value) in enumerate(zip(COLOURS, row, strict=True))
        ]
    )
    return tmp_path


class TestPredictDataset:
    @pytest.mark.slow
    def test_json(self, graph, command, zoo, save):
        save(graph, zoo(n_datasets=5))
        code, out, err = command("predict", "d03", "--json", *FAST)
        assert (code, err) == (0, "")
        answer = json.loads(out)
        assert set(answer) == {
            "dataset",
            "ranking",
            "neighbours",
            "confidence",
            "notes",
            "seconds",
            "provenance",
            "verdict",
        }
        assert answer["dataset"] == "d03"
        assert sum(model["p_best"] for model in answer["ranking"]) == pytest.approx(1)
        ranks = [model["expected_rank"] for model in answer["ranking"]]
        assert ranks == sorted(ranks)
        first = answer["ranking"][0]
        assert first["cost"]["train_seconds"] == 103
        assert first["cost"]["sample_seconds_per_image"] is None
        assert first["cost"]["params"] == 1 + int(first["model"][1])
        assert {reason["part"] for reason in first["why"]} >= {"graph", "dataset"}
        truth = {m.model: m.value for m in graph.snapshot().performs.itertuples() if m.dataset == "d03"}
        assert {model["model"]: model["measured"] for model in answer["ranking"]} == truth
        assert answer["provenance"]["metric"] == "clip_fid"
        assert answer["provenance"]["embedder"]["seed"] == 0

    def test_a_pipe_gets_whole_numbers_whatever_the_screen(self, graph, command, zoo, save, monkeypatch):
        save(graph, zoo(n_datasets=5))
        monkeypatch.setenv("COLUMNS", "40")
        code, out, _ = command("predict", "d03", *PROCESS)
        assert code == 0
        assert "Fine-tune m" in out
        assert "Best model measured on this dataset" in out
        assert "expected rank" in out
        assert "…" not in out

    def test_its_own_results_change_nothing(self, graph, command, zoo, save):
        snapshot = zoo(n_datasets=5)
        save(graph, snapshot)
        before = json.loads(command("predict", "d03", "--json", *FAST)[1])
        performs = snapshot.performs.copy()
        performs.loc[performs["dataset"] == "d03", "value"] = np.arange(6) * 100.0
        save(graph, replace(snapshot, performs=performs))
        after = json.loads(command("predict", "d03", "--json", *FAST)[1])
        for answer in (before, after):
            answer.pop("seconds")
            for model in answer["ranking"]:
                model.pop("measured")
        assert before == after

    @pytest.mark.parametrize(
        "options",
        [["--embedder", "node2vec+"], ["--features", "node"], ["--features", "graph"], ["--ranker", "forest"],
         ["--operator", "hadamard", "--seed", "3"]],
    )  # fmt: skip
    def test_options(self, graph, command, zoo, save, options):
        save(graph, zoo(n_datasets=4))
        code, out, err = command("predict", "d03", "--json", *FAST, *options)
        assert (code, err) == (0, "")
        assert len(json.loads(out)["ranking"]) == 6


class TestDefaultRecipe:
    def test_json(self, graph, command, zoo, save):
        save(graph, zoo(n_datasets=5))
        code, out, err = command("predict", "d03", "--json")
        assert (code, err) == (0, "")
        answer = json.loads(out)
        assert answer["provenance"]["recipe"] == "stack"
        assert answer["confidence"] is None
        assert sum(model["p_best"] for model in answer["ranking"]) == pytest.approx(1)
        known = {"general", "graph", "dataset", "recipe"}
        assert {reason["part"] for reason in answer["ranking"][0]["why"]} <= known
        assert sum(answer["provenance"]["mixture"]["weights"].values()) == pytest.approx(1)

    @pytest.mark.slow
    def test_confidence(self, graph, command, zoo, save):
        save(graph, zoo(noise=2.0))
        code, out, err = command("predict", "d03", "--confidence", "0.8", "--json")
        assert (code, err) == (0, "")
        answer = json.loads(out)
        found = answer["confidence"]
        chances = {model["model"]: model["p_best"] for model in answer["ranking"]}
        assert found["confidence"] == 0.8
        assert (found["folds"], found["attainable"]) == (17, pytest.approx(17 / 18))
        assert found["reason"] is None
        assert set(found["models"]) == {m for m, chance in chances.items() if chance >= found["least_p_best"]}
        assert found["coverage"]["folds"] == found["size"]["folds"] == 17
        assert answer["verdict"]["judged_on"] == 17
        out = command("predict", "d03", "--confidence", "0.8", "--recipe", "gaussian")[1]
        assert "With 80 % confidence, the best model is" in out
        assert "of the other 17 datasets, with" in out
        assert "calibrated on 17 other datasets" in out
        assert "Expected loss against the best model: " in out
        assert out.rstrip().endswith("matchgraph predict d03 --measure 3")
        for impossible in ("0", "1", "nan", "x"):
            assert command("predict", "d03", "--confidence", impossible)[0] == 2

    def test_a_dataset_of_which_nothing_is_known_gets_the_general_ranking(self, graph, command, zoo, save):
        save(graph, zoo(n_datasets=5))
        graph.save_datasets([Dataset("lonely", {"images": 100})])
        code, out, _ = command("predict", "lonely", "--features", "graph")
        assert code == 0
        assert "Fine-tune m" in out

    def test_options_of_another_recipe_are_refused(self, graph, command, zoo, save):
        save(graph, zoo(n_datasets=4))
        for options in (["--trees", "10"], ["--ranker", "forest"], ["--operator", "l1"]):
            code, out, err = command("predict", "d03", *options)
            assert (code, out) == (2, "")
            assert f"{options[0]} needs --recipe paper" in err


class TestPredictFolder:
    def test_a_folder_is_matched_with_its_like_and_leaves_no_trace(
        self, graph, runner, command, colours, probe
    ):
        folder = write_images(colours / "brick", (190, 45, 35), 9)
        before = runner.read(
            "MATCH (n) OPTIONAL MATCH (n)-[r]->() RETURN count(DISTINCT n) AS n, count(r) AS r"
        )
        code, out, err = command("predict", folder, "--probe", probe, "--json", *FAST)
        assert (code, err) == (0, "")
        answer = json.loads(out)
        assert answer["dataset"] == "brick"
        assert {neighbour["dataset"] for neighbour in answer["neighbours"][:2]} == {"reds", "rust"}
        assert answer["neighbours"][0]["best"][0] == "m-warm"
        assert "measured" not in answer["ranking"][0]
        cost = {model["model"]: model["cost"] for model in answer["ranking"]}["m-cold"]
        assert cost.pop("throughput") is None
        assert cost == {"train_seconds": 90, "sample_seconds_per_image": 0.5, "params": 7, "tflop": 1.5}
        assert answer["provenance"]["extractor"] == graph.datasets()[0].properties["extractor"]
        after = runner.read(
            "MATCH (n) OPTIONAL MATCH (n)-[r]->() RETURN count(DISTINCT n) AS n, count(r) AS r"
        )
        assert before == after

    def test_two_images_say_little_and_the_answer_says_so(self, command, colours, probe):
        folder = write_images(colours / "brick", (190, 45, 35), 9)
        arguments = ("predict", folder, "--probe", probe, *FAST)
        for image in sorted(folder.iterdir())[2:]:
            image.unlink()
        code, out, _ = command(*arguments)
        assert code == 0
        assert "Note: brick has only 2 images, and distances in" in " ".join(out.split())
        answer = json.loads(command(*arguments, "--json")[1])
        assert answer["notes"][0].startswith("brick has only 2 images")
        assert answer["neighbours"][0]["n"] == 2

    def test_another_folder_of_the_same_name_is_not_the_graphs_dataset(self, graph, command, colours, probe):
        folder = write_images(colours / "new" / "reds", (190, 45, 35), 9)
        answer = json.loads(command("predict", folder, "--probe", probe, "--json", *FAST)[1])
        assert answer["dataset"] == "reds (2)"
        assert "reds" in {neighbour["dataset"] for neighbour in answer["neighbours"]}
        before = graph.datasets()
        code, _, err = command("predict", folder, "--probe", probe, "--save", *FAST)
        assert code == 2
        assert (
            f"'reds' is in the graph already, from {colours / 'known' / 'reds'}, and {folder} has different"
            in err
        )
        assert graph.datasets() == before

    def test_another_writer_takes_the_id_before_a_folder_is_saved(
        self, graph, command, colours, probe, monkeypatch
    ):
        from matchgraph.graphdb.repository import MatchingGraph

        folder = write_images(colours / "new" / "plums", (190, 45, 35), 9)
        theirs = Dataset("plums", {"content_hash": "of other images", "source": "/theirs"})
        save = MatchingGraph.save_datasets

        def save_after_another(own, datasets, *arguments, **options):
            if "plums" not in {known.id for known in graph.datasets()}:
                save(graph, [theirs])
            save(own, datasets, *arguments, **options)

        monkeypatch.setattr(MatchingGraph, "save_datasets", save_after_another)
        code, _, err = command("predict", folder, "--probe", probe, "--save", *FAST)
        assert code == 2
        assert f"'plums' is in the graph already, from /theirs, and {folder} has different content" in err
        assert [known for known in graph.datasets() if known.id == "plums"] == [theirs]

    def test_everything_is_read_and_decoded_once(self, command, colours, probe, monkeypatch):
        from matchgraph.graphdb.runner import Runner
        from matchgraph.training import images

        folder = write_images(colours / "brick", (190, 45, 35), 9)
        decoded, asked = [], []
        load_rgb, read = images.load_rgb, Runner.read
        monkeypatch.setattr(images, "load_rgb", lambda path: decoded.append(path.name) or load_rgb(path))
        monkeypatch.setattr(
            Runner,
            "read",
            lambda self, query, **values: asked.append(str(query)) or read(self, query, **values),
        )
        assert command("predict", folder, "--probe", probe, "--confidence", "0.5", *FAST)[0] == 0
        assert sorted(decoded) == sorted(file.name for file in folder.iterdir())
        for statement in ("read/datasets", "read/statistics", "read/similar", "read/performs"):
            assert asked.count(str(queries.load(statement))) == 1, statement

    def test_all_bad_images_are_named_and_each_image_decoded_once(self, command, colours, probe, monkeypatch):
        from matchgraph.training import images

        folder = write_images(colours / "brick", (190, 45, 35), 9)
        for name in ("3.png", "7.png"):
            (folder / name).write_bytes(b"no image")
        decoded, load_rgb = [], images.load_rgb
        monkeypatch.setattr(images, "load_rgb", lambda path: decoded.append(path.name) or load_rgb(path))
        code, _, err = command("predict", folder, "--probe", probe)
        assert code == 2
        assert all(name in err for name in ("2 problems", "3.png", "7.png"))
        assert sorted(decoded) == sorted(file.name for file in folder.iterdir())

    def test_confidence_in_a_folder_is_learned_from_all_datasets_of_the_graph(self, command, colours, probe):
        folder = write_images(colours / "new" / "brick", (175, 50, 35), 9)
        arguments = ["predict", folder, "--probe", probe, "--confidence", "0.9"]
        code, out, err = command(*arguments, "--json")
        assert (code, err) == (0, "")
        found = json.loads(out)["confidence"]
        assert found["folds"] == len(COLOURS)
        assert sorted(found["models"]) == ["m-bad", "m-cold", "m-warm"]
        assert (
            f"{len(COLOURS)} other datasets with results allow no confidence above 80.0%" in found["reason"]
        )

    def test_a_saved_folder_is_what_ingesting_makes_of_it(self, graph, command, colours, probe, monkeypatch):
        folder = write_images(colours / "brick", (190, 45, 35), 9)
        monkeypatch.setenv("MATCHGRAPH_PROBE", str(probe))
        unsaved = json.loads(command("predict", folder, "--json", *FAST)[1])
        saved = json.loads(command("predict", folder, "--save", "--json", *FAST)[1])
        stored = graph.datasets()
        similar = graph.snapshot().similar
        assert "brick" in {dataset.id for dataset in stored}
        assert len(similar) == 10
        by_id = json.loads(command("predict", "brick", "--json", *FAST)[1])
        assert unsaved["ranking"] == saved["ranking"] == by_id["ranking"]
        assert unsaved["provenance"] == saved["provenance"] == by_id["provenance"]

        from matchgraph.ingest.tables.datasets import ingest_image_folders
        from matchgraph.training.measure.extractors import load_clip

        assert ingest_image_folders(graph, folder, load_clip(str(probe))).unchanged == ("brick",)
        assert graph.datasets() == stored
        assert graph.snapshot().similar.equals(similar)

    def test_a_known_folder_is_predicted_without_its_results(self, command, colours, probe):
        code, out, _ = command("predict", colours / "known" / "reds", "--probe", probe, "--json", *FAST)
        assert code == 0
        assert json.loads(out)["provenance"]["results"] == 9

    def test_another_probe_is_refused_by_both_hashes(self, graph, command, colours, tmp_path_factory):
        from matchgraph.training.measure.extractors import load_clip
        from tests.training import tiny

        other = tiny.save_clip(tmp_path_factory.mktemp("other"), seed=5)
        folder = write_images(colours / "brick", (190, 45, 35), 9)
        code, out, err = command("predict", folder, "--probe", other)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert load_clip(str(other)).hash in err
        assert graph.datasets()[0].properties["extractor"] in err
        assert "--probe" in err

    def test_bad_folders_are_one_line(self, command, colours, probe):
        folder = write_images(colours / "brick", (190, 45, 35), 9)
        code, _, err = command("predict", folder)
        assert code == 2
        assert "--probe" in err
        assert "neither a folder" in command("predict", "")[2]
        (folder / "3.png").write_bytes(b"no image")
        code, _, err = command("predict", folder, "--probe", probe)
        assert code == 2
        assert "3.png" in err
        assert len(err.splitlines()) == 1
        code, _, err = command("predict", colours / "known", "--probe", probe)
        assert code == 2
        assert "4 folders" in err

    def test_a_graph_without_statistics(self, graph, command, tmp_path, probe, zoo, save):
        save(graph, zoo(n_datasets=3))
        folder = write_images(tmp_path / "brick", (190, 45, 35), 9)
        code, _, err = command("predict", folder, "--probe", probe)
        assert code == 2
        assert "ingest datasets" in err


class TestErrors:
    def test_unknown_target_lists_what_is_near(self, graph, command, zoo, save):
        save(graph, zoo(n_datasets=4))
        code, out, err = command("predict", "d033")
        assert (code, out) == (2, "")
        assert "'d033' is neither a folder nor" in err
        assert "'d03'" in err

    def test_unknown_metric_lists_those_present(self, graph, command, zoo, save):
        save(graph, zoo(n_datasets=4))
        for metric in ("accuracy", "no_such_metric"):
            code, _, err = command("evaluate", "--metric", metric)
            assert code == 2
            assert "clip_fid (24 results)" in err

    def test_an_empty_graph(self, graph, command):  # noqa: ARG002
        code, _, err = command("evaluate")
        assert code == 2
        assert "no results yet" in err

    def test_nothing_to_learn_from(self, graph, command):
        graph.save_models([Model("a"), Model("b")])
        graph.save_datasets([Dataset("d"), Dataset("e")])
        graph.save_results([Result("a", "d", "clip_fid", 1.0), Result("b", "d", "clip_fid", 2.0)])
        code, _, err = command("predict", "d")
        assert code == 2
        assert "at least 2" in err
        code, _, err = command("predict", "e", "--recipe", "paper")
        assert code == 2
        assert "similarity" in err

    def test_save_needs_a_folder(self, graph, command, zoo, save):
        save(graph, zoo(n_datasets=4))
        code, _, err = command("predict", "d03", "--save")
        assert code == 2
        assert "--save" in err


class TestEvaluate:
    def test_json(self, graph, command, zoo, save):
        save(graph, zoo(n_datasets=4))
        code, out, err = command("evaluate", "--json", *PROCESS)
        assert (code, err) == (0, "")
        answer = json.loads(out)
        keys = [method["key"] for method in answer["methods"]]
        assert keys == [
            "method",
            "average_rank",
            "average_value",
            "neighbours",
            "direct",
            "initial",
            "random",
        ]
        assert answer["methods"][keys.index("initial")]["figures"]["osr"]["mean"] is None
        assert set(answer["methods"][0]["figures"]) == {"osr", "tau_w", "tau_scipy", "o2b", "o2o"}
        assert answer["methods"][0]["p_value"] == {}
        assert 0 < answer["methods"][1]["p_value"]["tau_w"] <= 1
        assert sum(answer["folds"][0]["p_best"].values()) == pytest.approx(1)
        assert [fold["dataset"] for fold in answer["folds"]] == ["d00", "d01", "d02", "d03"]
        assert answer["provenance"]["seed"] == 0

    def test_models_held_out(self, graph, command, zoo, save):
        save(graph, zoo(n_datasets=8))
        code, out, err = command("evaluate", "--hold-out", "model", *PROCESS)
        assert (code, err) == (0, "")
        assert "as if never measured, by clip_fid" in out
        assert "over 6 models" in out
        for other in (("--measure", 2), ("--removed", 0.1), ("--budget-curve",)):
            code, _, err = command("evaluate", "--hold-out", "model", *other)
            assert (code, "leave them out" in err) == (2, True)

    @pytest.mark.slow
    def test_text_and_a_metric_where_larger_is_better(self, graph, command, zoo, save):
        snapshot = zoo(n_datasets=4)
        save(graph, snapshot)
        graph.save_metric(Metric("taste", larger_is_better=True))
        graph.save_results(
            [Result(row.model, row.dataset, "taste", -row.value) for row in snapshot.performs.itertuples()]
        )
        options = [*PROCESS, "--features", "node", "--removed", "0.2"]
        code, out, _ = command("evaluate", "--metric", "taste", *options)
        assert code == 0
        assert "p = " in out
        assert "Overall (average rank)" in out
        assert "95 % interval" in out
        mirrored = json.loads(command("evaluate", "--metric", "taste", "--json", *options)[1])
        plain = json.loads(command("evaluate", "--json", *options)[1])
        assert mirrored["methods"] == plain["methods"]


class TestBudgetCurve:
    QUICK = ("--budget-curve", "--features", "node", *PROCESS)

    def test_json(self, graph, command, zoo, save):
        save(graph, zoo(n_datasets=8, n_models=3))
        code, out, err = command("evaluate", *self.QUICK, "--replays", 1, "--shares", "0.3,0.6", "--json")
        assert (code, err) == (0, "")
        answer = json.loads(out)
        assert [order["key"] for order in answer["orders"]] == [
            "active",
            "random",
            "round_robin",
            "by_dataset",
        ]
        assert [point["share"] for point in answer["orders"][0]["points"]] == [0.3, 0.6]
        assert set(answer["orders"][0]["lead"]) == {"random", "round_robin", "by_dataset"}
        # Six of the eight datasets can be measured at a time; each fine-tuning took 103 s.
        assert answer["hours"] == pytest.approx(3 * 6 * 103 / 3600)
        assert answer["hours_from"] == "recorded times of 3 of 3 models"
        assert answer["trainings"] == 4 * (4 * 2 + 1)
        assert answer["provenance"]["shares"] == [0.3, 0.6]

    def test_text(self, graph, command, zoo, save):
        save(graph, zoo(n_datasets=8, n_models=3))
        code, out, _ = command("evaluate", *self.QUICK, "--replays", 1, "--shares", "0.5")
        assert code == 0
        assert "Dataset by dataset" in out
        assert "50%" in out
        assert "Active does not clearly differ from random at equal budget" in out or "Active teaches" in out
        assert "trained 20 times" in out

    def test_shares_are_numbers_that_rise(self, graph, command, zoo, save):
        assert "give shares of the whole cost" in command("evaluate", "--budget-curve", "--shares", "half")[2]
        save(graph, zoo(n_datasets=8, n_models=3))
        code, _, err = command("evaluate", *self.QUICK, "--shares", "0.5,0.2")
        assert code == 2
        assert "must rise" in err


class TestExtractors:
    """Values of one metric by different extractors never meet in one answer."""

    @pytest.mark.parametrize("arguments", [("evaluate",), ("predict", "d03")])
    def test_mixed_results_are_refused_and_one_extractor_may_be_chosen(
        self, graph, command, zoo, save, arguments
    ):
        save(graph, zoo(n_datasets=5))
        rows = list(graph.snapshot().performs.itertuples())
        graph.save_results(
            [
                Result(row.model, row.dataset, "clip_fid", 1000 * row.value, provenance={"extractor": "aaaa"})
                for row in rows
                if row.dataset == "d01"
            ]
        )
        code, out, err = command(*arguments, "--json", *PROCESS)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        ours = sum(row.dataset == "d01" for row in rows)
        assert f"aaaa ({ours} values), not-recorded ({len(rows) - ours} values)" in err
        assert "--measured-with" in err
        code, out, _ = command(*arguments, "--json", "--measured-with", "not-recorded", *PROCESS)
        assert code == 0
        left = len([row for row in rows if row.dataset not in ("d01", arguments[-1])])
        assert json.loads(out)["provenance"]["results"] == left
        code, _, err = command(*arguments, "--json", "--measured-with", "bbbb", *PROCESS)
        assert (code, "'bbbb'" in err) == (2, True)

    def test_a_folder_is_compared_by_the_extractor_of_the_graphs_similarities(
        self, graph, command, colours, probe
    ):
        folder = write_images(colours / "brick", (190, 45, 35), 9)
        similar = graph.snapshot().similar
        graph.save_similarities(
            [
                Similar(row.dataset, row.other, "clip_fid", row.value, {"extractor": "aaaa"})
                for row in similar.itertuples()
            ]
        )
        code, out, err = command("predict", folder, "--probe", probe, *FAST)
        assert (code, out) == (2, "")
        assert "they were compared with each other by aaaa" in err


def test_times_of_a_table_have_their_own_unit_and_may_be_unknown():
    shown = [time_cell(value) for value in (None, 0.25, 90, 600, 9000)]
    assert shown == ["", "0.25 s", "90 s", "10 min", "2.5 h"]


def test_the_options_need_nothing_heavy_and_the_services_no_torch():
    heavy = ("torch", "catboost", "sklearn", "scipy", "pandas", "graphdatascience", "neo4j", "gensim", "PIL")
    code = (
        "import sys, matchgraph.cli.predict as command\n"
        "print('numpy' in sys.modules)\n"
        "import matchgraph.predictor.workflow, matchgraph.ingest.tables.new_dataset\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.split("\n")[:2] == ["False", "[]"]
