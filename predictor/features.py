"""What the ranker sees of a (model, dataset) pair: model features, dataset features and an embedding of their
edge.

Everything here is a function of the zoo and the visible graph alone, and the column order is sorted by name,
so equal inputs give equal matrices.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.config import FEATURE_SETS, OPERATORS, FeatureSet, Operator
from matchgraph.predictor.errors import ExtractorMismatch, InvalidRows

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Dataset, Model

MAX_CATEGORIES = 16
MAX_LIST_LENGTH = 32
MAX_CATEGORY_NAME = 40
# What names a thing or says where it lies, rather than what it is like.
IDENTIFYING = re.compile(
    r"(^|_)(id|name|source|path|name_or_path|folder|file|url|hash|sha256|revision|commit|version|extractor|probe)$"
)
# How a measured figure is made up, and where it was measured; the figure itself is `tflop` or `throughput`.
# What is published of a model is known of few, and says nothing that its configs do not. Nor does a licence.
PROVENANCE = re.compile(r"^(tflop|throughput|published)_|^license$")


@dataclass(frozen=True)
class FeatureTable:
    """Features of models or of datasets, one row each.

    Attributes:
        ids: what each row describes, sorted.
        columns: names, sorted; `attribute`, `attribute_0` for the item of a list, `attribute=value` for a
            category.
        attributes: the attribute that each column came from.
        values: float64, (n_ids, n_columns), finite, normalised.
    """

    ids: tuple[str, ...]
    columns: tuple[str, ...]
    attributes: tuple[str, ...]
    values: np.ndarray

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """The rows of these ids, in their order."""
        place = {identifier: row for row, identifier in enumerate(self.ids)}
        return self.values[[place[identifier] for identifier in ids]]


def model_features(models: Sequence[Model]) -> FeatureTable:
    """Encode the attributes in which the zoo's models differ.

    Args:
        models: the whole zoo: normalisation and categories depend on it.

    Returns:
        One row per model; no columns where nothing differs. See `encode_attributes` for the rules.
        Throughputs count only if all were measured on one device, in one precision and batch size: others
        would tell the machines apart and not the models.

    Source:
        Match & Choose, section 4.2: "retain the hyperparameters that differ globally across the whole zoo",
        then "normalization and one-hot encoding".
    """
    measured = [model.properties for model in models if "throughput" in model.properties]
    conditions = {
        tuple(properties.get(f"throughput_{name}") for name in ("device", "precision", "batch_size"))
        for properties in measured
    }
    dropped = {"throughput"} if len(conditions) > 1 else set()
    return encode_attributes(
        {
            model.id: {
                name: value
                for name, value in model.properties.items()
                if name not in dropped and not PROVENANCE.match(name)
            }
            for model in models
        }
    )


def dataset_features(datasets: Sequence[Dataset]) -> FeatureTable:
    """Mean probe embeddings of the datasets, or their attributes where no dataset has one.

    A dataset without an embedding among others with one gets the mean embedding and an indicator column.

    Args:
        datasets: all datasets that the graph and the prediction know.

    Returns:
        One row per dataset, each column normalised over them.

    Raises:
        ExtractorMismatch: embeddings of different lengths or from different extractors.

    Source:
        Match & Choose, section 4.2: the average of a probe model's embeddings over the images.
    """
    ordered = sorted(datasets, key=lambda dataset: dataset.id)
    embedded = [dataset for dataset in ordered if dataset.embedding is not None]
    if not embedded:
        return encode_attributes({dataset.id: dataset.properties for dataset in ordered})
    length = check_comparable(embedded)
    blank = (float("nan"),) * length
    digits = len(str(length - 1))
    table: dict[str, list[float]] = {f"e{i:0{digits}d}": [] for i in range(length)}
    for dataset in ordered:
        for column, value in zip(table.values(), dataset.embedding or blank, strict=True):
            column.append(value)
    return _table([dataset.id for dataset in ordered], {name: ("embedding", v) for name, v in table.items()})


def encode_attributes(attributes: Mapping[str, Mapping[str, object]]) -> FeatureTable:
    """Turn attributes into normalised numbers.

    - A number becomes one column, scaled to mean 0 and standard deviation 1 over those that have it. A
      boolean is 0 or 1.
    - A text is one-hot encoded. With more than 16 different values, only the most frequent that at least two
      rows share get a column, so ids, captions and other free text cannot blow up the table.
    - A list becomes one attribute per item, up to 32. Where some have a list and others a single value, the
      value stands for each item, as in diffusers' configs.
    - A missing number takes the mean, and a column `attribute=missing` says so; the same column stands for a
      missing text.
    - Ids, names, paths, hashes and `source` are left out, and so are columns that are equal in all rows or
      equal another.

    Args:
        attributes: each row's attributes, by row id.

    Returns:
        Rows and columns sorted by name.
    """
    ids = sorted(attributes)
    columns: dict[str, tuple[str, list[float]]] = {}
    for name in sorted({name for row in attributes.values() for name in row}):
        if IDENTIFYING.search(name.lower()):
            continue
        for item, cells in _items(name, [attributes[identifier].get(name) for identifier in ids]):
            columns.update({column: (name, values) for column, values in _encoded(item, cells)})
    return _table(ids, columns)


def edge_embedding(model: np.ndarray, dataset: np.ndarray, operator: Operator = "concat") -> np.ndarray:
    """Combine the embeddings of an edge's two nodes into one of the edge.

    Args:
        model: float64, (n_edges, d), embeddings of the model nodes.
        dataset: float64, (n_edges, d), embeddings of the dataset nodes.
        operator: element-wise product, mean, absolute or squared difference, or both vectors side by side.

    Returns:
        float64, (n_edges, d), or (n_edges, 2 d) for concat.

    Raises:
        InvalidRows: unequal shapes or an unknown operator.

    Source:
        Grover and Leskovec, "node2vec", KDD 2016, Table 1, for all but concat. Match & Choose, section 4.4,
        does not say which it uses. The default is ours, because the other operators mix up two things:
        whether an edge is in the graph, which all edges trained on are and none asked about is, and where its
        ends lie.
    """
    if model.shape != dataset.shape:
        raise InvalidRows(f"model embeddings are {model.shape}, dataset embeddings {dataset.shape}")
    match operator:
        case "hadamard":
            return model * dataset
        case "average":
            return (model + dataset) / 2
        case "l1":
            return np.abs(model - dataset)
        case "l2":
            return (model - dataset) ** 2
        case "concat":
            return np.hstack([model, dataset])
    raise InvalidRows(f"unknown operator {operator!r}: choose one of {', '.join(OPERATORS)}")


@dataclass(frozen=True)
class Rows:
    """The ranker's input for some pairs.

    Attributes:
        values: float64, (n_pairs, n_columns): model features, then dataset features, then the edge embedding.
        parts: of each column, `model:<attribute>`, `dataset` or `graph`: what an explanation sums over.
    """

    values: np.ndarray
    parts: tuple[str, ...]


def assemble(
    pairs: Sequence[tuple[str, str]],
    models: FeatureTable,
    datasets: FeatureTable,
    embeddings: Mapping[str, np.ndarray],
    *,
    features: FeatureSet = "all",
    operator: Operator = "concat",
) -> Rows:
    """Concatenate the three vectors of each (model, dataset) pair.

    Args:
        pairs: ids of model and dataset.
        models: features of every model in the pairs.
        datasets: features of every dataset in the pairs.
        embeddings: node embeddings by `model:<id>` and `dataset:<id>`; not read for features="node".
        features: all three vectors, only the edge embedding ("graph"), or only the nodes' own features
            ("node").
        operator: see `edge_embedding`.

    Returns:
        One row per pair. Where nothing tells the pairs apart (no attributes at all), there is one constant
        column.

    Raises:
        InvalidRows: for an unknown feature set or operator.

    Source:
        Match & Choose, section 4.4; Table 4 for the partial inputs.
    """
    if features not in FEATURE_SETS:
        raise InvalidRows(f"unknown features {features!r}: choose one of {', '.join(FEATURE_SETS)}")
    model_ids, dataset_ids = [model for model, _ in pairs], [dataset for _, dataset in pairs]
    blocks: list[np.ndarray] = []
    parts: list[str] = []
    if features != "graph":
        blocks += [models.rows(model_ids), datasets.rows(dataset_ids)]
        parts += [f"model:{attribute}" for attribute in models.attributes]
        parts += ["dataset"] * len(datasets.columns)
    if features != "node":
        edges = edge_embedding(
            np.array([embeddings[f"model:{model}"] for model in model_ids], dtype=np.float64),
            np.array([embeddings[f"dataset:{dataset}"] for dataset in dataset_ids], dtype=np.float64),
            operator,
        )
        blocks.append(edges)
        parts += ["graph"] * edges.shape[1]
    values = np.hstack(blocks) if parts else np.zeros((len(pairs), 1))
    return Rows(values, tuple(parts) or ("graph",))


def check_comparable(datasets: Sequence[Dataset]) -> int:
    """Refuse embeddings that lie in different spaces.

    Args:
        datasets: at least one; all have an embedding.

    Returns:
        How many numbers each embedding has.

    Raises:
        ExtractorMismatch: their lengths or their extractors differ.
    """
    kinds: dict[tuple[object, int], str] = {}
    for dataset in datasets:
        assert dataset.embedding is not None
        kinds.setdefault((dataset.properties.get("extractor"), len(dataset.embedding)), dataset.id)
    lengths = {length for _, length in kinds}
    extractors = {extractor for extractor, _ in kinds if extractor is not None}
    if len(lengths) > 1 or len(extractors) > 1:
        listed = "; ".join(
            f"{name!r}: extractor {extractor or 'not recorded'}, {length} numbers"
            for (extractor, length), name in sorted(kinds.items(), key=lambda kind: kind[1])
        )
        raise ExtractorMismatch(
            f"The datasets' embeddings cannot be compared ({listed}). Embed all datasets by one probe: "
            "ingest them again with the same --probe SPEC."
        )
    return lengths.pop()


def _items(name: str, cells: list[object]) -> list[tuple[str, list[object]]]:
    """A column of lists as one column per item; any other column as it is."""
    lengths = [len(cell) for cell in cells if isinstance(cell, list | tuple)]
    if not lengths:
        return [(name, cells)]
    items = []
    for index in range(min(max(lengths), MAX_LIST_LENGTH)):
        column: list[object] = []
        for cell in cells:
            if isinstance(cell, list | tuple):
                column.append(cell[index] if index < len(cell) else None)
            else:
                column.append(cell)
        items.append((f"{name}_{index}", column))
    return items


def _encoded(name: str, cells: list[object]) -> list[tuple[str, list[float]]]:
    """The columns of one attribute: its number, its categories, and whether it is missing."""
    nan = float("nan")
    numbers = [float(cell) if isinstance(cell, bool | int | float) else nan for cell in cells]
    numbers = [number if math.isfinite(number) else nan for number in numbers]
    texts = [cell if isinstance(cell, str) else None for cell in cells]
    columns = []
    if not all(map(math.isnan, numbers)):
        columns.append((name, numbers))
    counts = Counter(text for text in texts if text is not None)
    kept = sorted(counts)
    if len(counts) > MAX_CATEGORIES:
        frequent = sorted(
            (text for text in counts if counts[text] > 1), key=lambda text: (-counts[text], text)
        )
        kept = sorted(frequent[:MAX_CATEGORIES])
    for text in kept:
        columns.append((f"{name}={text[:MAX_CATEGORY_NAME]}", [float(own == text) for own in texts]))
    missing = [
        float(math.isnan(number) and text is None) for number, text in zip(numbers, texts, strict=True)
    ]
    columns.append((f"{name}=missing", missing))
    return columns


def _table(ids: Sequence[str], columns: Mapping[str, tuple[str, list[float]]]) -> FeatureTable:
    """Fill, normalise, and drop what tells no two rows apart or repeats another column."""
    names = sorted(columns)
    if not names:
        return FeatureTable(tuple(ids), (), (), np.zeros((len(ids), 0)))
    # One row for each column of the table, all at once: a zoo has hundreds of columns.
    values = np.array([columns[name][1] for name in names], dtype=np.float64)
    for row in np.flatnonzero(np.isnan(values).any(axis=1)):
        missing = np.isnan(values[row])
        values[row, missing] = values[row, ~missing].mean()
    # Scaled first, so that numbers near the float limits cannot overflow in the variance.
    scales = np.abs(values).max(axis=1)
    values /= np.where(scales > 0, scales, 1.0)[:, None]
    spreads = values.std(axis=1)
    varied = np.flatnonzero((spreads > 0) & (np.ptp(values, axis=1) > 0))
    values = (values[varied] - values[varied].mean(axis=1, keepdims=True)) / spreads[varied][:, None]
    # The first of equal rows.
    first = {row.tobytes(): number for number, row in reversed(list(enumerate(values)))}
    kept = sorted(first.values())
    chosen = [names[varied[number]] for number in kept]
    attributes = tuple(columns[name][0] for name in chosen)
    return FeatureTable(tuple(ids), tuple(chosen), attributes, np.ascontiguousarray(values[kept].T))
