"""Encoding of messy attributes, dataset embeddings, and the assembled rows."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from matchgraph.graphdb.models import Dataset, Model
from matchgraph.predictor.config import OPERATORS
from matchgraph.predictor.errors import ExtractorMismatch, InvalidRows
from matchgraph.predictor.features import (
    assemble,
    dataset_features,
    edge_embedding,
    encode_attributes,
    model_features,
)


def column(table, name) -> list[float]:
    return table.values[:, table.columns.index(name)].tolist()


class TestModelFeatures:
    def test_numbers_are_normalised_over_the_zoo(self):
        table = model_features(
            [Model("b", {"params": 3.0}), Model("a", {"params": 1}), Model("c", {"params": 2})]
        )
        assert table.ids == ("a", "b", "c")
        assert np.allclose(column(table, "params"), np.array([-1, 1, 0]) * np.sqrt(1.5))

    def test_only_what_differs_is_kept(self):
        table = model_features(
            [Model("a", {"x": 1, "y": "same", "z": 1}), Model("b", {"x": 1, "y": "same", "z": 2})]
        )
        assert table.columns == ("z",)

    def test_measured_figures_count_and_how_they_were_measured_does_not(self):
        def zoo(*devices):
            names = ("tflop", "tflop_calls", "throughput", "throughput_device")
            rows = zip((1.0, 2.0, 4.0), (9, 8, 7), (5.0, 6.0, 3.0), devices, strict=True)
            return [
                Model(model, dict(zip(names, row, strict=True)))
                for model, row in zip("abc", rows, strict=True)
            ]

        assert model_features(zoo("gpu", "gpu", "gpu")).columns == ("tflop", "throughput")
        assert model_features(zoo("gpu", "gpu", "cpu")).columns == ("tflop",)

    def test_categories_and_booleans(self):
        table = encode_attributes(
            {"a": {"f": "unet", "b": True}, "b": {"f": "dit", "b": True}, "c": {"f": "mm", "b": False}}
        )
        assert table.columns == ("b", "f=dit", "f=mm", "f=unet")
        assert column(table, "f=dit").index(max(column(table, "f=dit"))) == 1

    def test_missing_numbers_take_the_mean_and_say_so(self):
        table = encode_attributes({"a": {"x": 1.0}, "b": {}, "c": {"x": 3.0}, "d": {"x": float("nan")}})
        assert column(table, "x")[1] == column(table, "x")[3] == pytest.approx(0)
        missing = column(table, "x=missing")
        assert missing[1] == missing[3] > missing[0] == missing[2]

    def test_numbers_and_texts_mixed_in_one_attribute(self):
        table = encode_attributes({"a": {"x": 1.0}, "b": {"x": "auto"}, "c": {"x": 3.0}, "d": {"x": 3.5}})
        assert {"x", "x=auto"} <= set(table.columns)

    def test_lists_become_items_and_a_single_value_stands_for_each(self):
        table = encode_attributes(
            {"a": {"heads": [5, 10, 20]}, "b": {"heads": 8}, "c": {"heads": [4, 10, 21]}, "d": {"heads": []}}
        )
        assert {"heads_0", "heads_1", "heads_2"} <= set(table.columns)
        middle = column(table, "heads_1")
        assert middle[1] < middle[0] == middle[2]

    def test_free_text_is_bounded(self):
        rows = {f"m{i}": {"note": f"trained by {i}", "kind": f"k{i % 30}", "q": i} for i in range(60)}
        table = encode_attributes(rows)
        assert not [name for name in table.columns if name.startswith("note")]
        assert len([name for name in table.columns if name.startswith("kind")]) == 16

    def test_what_names_a_model_is_no_feature(self):
        rows = {
            name: {
                "id": name,
                "name": name,
                "source": name,
                "unet_path": name,
                "_name_or_path": name,
                "params": i,
            }
            for i, name in enumerate("abc")
        }
        assert encode_attributes(rows).columns == ("params",)

    def test_repeated_columns_are_dropped(self):
        table = encode_attributes({"a": {"x": 1, "y": 10}, "b": {"x": 2, "y": 20}, "c": {"x": 4, "y": 40}})
        assert table.columns == ("x",)

    def test_huge_numbers_stay_finite(self):
        table = encode_attributes({"a": {"x": 1e308}, "b": {"x": -1e308}, "c": {"x": 0}})
        assert np.isfinite(table.values).all()

    def test_order_of_the_input_does_not_matter(self):
        models = [Model(str(i), {"p": i * i, "f": "ab"[i % 2]}) for i in range(6)]
        one, other = model_features(models), model_features(models[::-1])
        assert one.columns == other.columns
        assert np.array_equal(one.values, other.values)

    def test_a_zoo_without_attributes(self):
        table = model_features([Model("a"), Model("b")])
        assert table.values.shape == (2, 0)


class TestDatasetFeatures:
    def test_embeddings_win_over_attributes(self):
        table = dataset_features(
            [Dataset("a", {"images": 3}, (1.0, 2.0)), Dataset("b", {"images": 4}, (3.0, 1.0))]
        )
        assert table.columns == ("e0", "e1")
        assert table.attributes == ("embedding", "embedding")

    def test_attributes_without_embeddings(self):
        assert dataset_features([Dataset("a", {"images": 3}), Dataset("b", {"images": 4})]).columns == (
            "images",
        )

    def test_one_without_embedding_takes_the_mean(self):
        table = dataset_features([Dataset("a", {}, (1.0, 2.0)), Dataset("b"), Dataset("c", {}, (3.0, 7.0))])
        assert np.allclose(table.rows(["b"]), 0)

    def test_refuses_embeddings_that_cannot_be_compared(self):
        with pytest.raises(ExtractorMismatch, match=r"h1.*h2"):
            dataset_features(
                [Dataset("a", {"extractor": "h1"}, (1.0,)), Dataset("b", {"extractor": "h2"}, (1.0,))]
            )
        with pytest.raises(ExtractorMismatch, match=r"1 numbers.*2 numbers"):
            dataset_features([Dataset("a", {}, (1.0,)), Dataset("b", {}, (1.0, 2.0))])


class TestEdgeEmbedding:
    def test_by_hand(self):
        model, dataset = np.array([[1.0, -2.0]]), np.array([[3.0, 4.0]])
        results = {operator: edge_embedding(model, dataset, operator).tolist()[0] for operator in OPERATORS}
        assert results == {
            "hadamard": [3, -8],
            "average": [2, 1],
            "l1": [2, 6],
            "l2": [4, 36],
            "concat": [1, -2, 3, 4],
        }

    def test_refuses(self):
        with pytest.raises(InvalidRows, match="unknown operator"):
            edge_embedding(np.ones((1, 2)), np.ones((1, 2)), "sum")
        with pytest.raises(InvalidRows, match="model embeddings"):
            edge_embedding(np.ones((1, 2)), np.ones((1, 3)))


class TestAssemble:
    models = model_features([Model("m1", {"params": 1}), Model("m2", {"params": 2})])
    datasets = dataset_features([Dataset("d1", {}, (0.0, 5.0)), Dataset("d2", {}, (1.0, 3.0))])
    embeddings: ClassVar = {
        "model:m1": np.array([1.0, 2]),
        "model:m2": np.array([3.0, 4]),
        "dataset:d1": np.array([5.0, 6]),
        "dataset:d2": np.array([7.0, 8]),
    }

    def test_three_blocks_in_order(self):
        rows = assemble(
            [("m2", "d1"), ("m1", "d2")], self.models, self.datasets, self.embeddings, operator="hadamard"
        )
        assert rows.parts == ("model:params", "dataset", "dataset", "graph", "graph")
        assert np.allclose(rows.values, [[1, -1, 1, 15, 24], [-1, 1, -1, 7, 16]])

    @pytest.mark.parametrize(("features", "width"), [("all", 7), ("graph", 4), ("node", 3)])
    def test_partial_inputs(self, features, width):
        rows = assemble([("m1", "d1")], self.models, self.datasets, self.embeddings, features=features)
        assert rows.values.shape == (1, width)
        assert len(rows.parts) == width

    def test_nodes_alone_need_no_graph(self):
        assert assemble([("m1", "d1")], self.models, self.datasets, {}, features="node").values.shape == (
            1,
            3,
        )

    def test_nothing_known_is_one_constant_column(self):
        nothing = model_features([Model("m1"), Model("m2")])
        bare = dataset_features([Dataset("d1"), Dataset("d2")])
        assert assemble([("m1", "d1")], nothing, bare, {}, features="node").values.tolist() == [[0]]

    def test_unknown_features(self):
        with pytest.raises(InvalidRows, match="all, graph, node"):
            assemble([("m1", "d1")], self.models, self.datasets, self.embeddings, features="edges")


def test_a_licence_says_nothing_of_what_a_model_is_like():
    plain = model_features([Model("a", {"params": 1}), Model("b", {"params": 2})])
    licensed = model_features([Model("a", {"params": 1, "license": "mit"}), Model("b", {"params": 2})])
    assert licensed.columns == plain.columns
