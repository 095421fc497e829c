"""A prediction in a large graph learns from the datasets nearest to the one asked about."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from matchgraph.graphdb.metrics import KNOWN_METRICS
from matchgraph.graphdb.models import Dataset, Model, Snapshot
from matchgraph.predictor.nearby import nearby

FID = KNOWN_METRICS["clip_fid"]


@pytest.fixture
def line() -> Snapshot:
    """Datasets d0 to d9 on a line, measured but for d4; d0 has distances to d2 and d4 alone."""
    measured = [f"d{n}" for n in range(10) if n != 4]
    performs = [("m", name, 1.0, np.nan) for name in measured]
    return Snapshot(
        FID,
        (Model("m"),),
        tuple(Dataset(f"d{n}", embedding=(float(n), 0.0)) for n in range(10)),
        pd.DataFrame(performs, columns=["model", "dataset", "value", "initial"]),
        pd.DataFrame([("d0", "d4", 0.5), ("d0", "d7", 1.0)], columns=["dataset", "other", "value"]),
        similarity=FID,
    )


def test_distances_come_first_and_embeddings_stand_in_for_the_rest(line: Snapshot):
    part, note = nearby(line, "d0", {}, most=3)
    # d7 by its distance, then d1 and d2 by their embeddings; d4 has no result to learn from.
    assert [dataset.id for dataset in part.datasets] == ["d0", "d1", "d2", "d7"]
    assert set(part.performs["dataset"]) == {"d0", "d1", "d2", "d7"}
    assert part.similar.to_numpy().tolist() == [["d0", "d7", 1.0]]
    assert note == "the ranking is computed from the 3 nearest of 8 measured datasets."


def test_a_new_dataset_has_distances_of_its_own(line: Snapshot):
    part, _ = nearby(line, Dataset("new", embedding=(9.0, 0.0)), {"d3": 0.1, "d0": 0.2}, most=3)
    assert [dataset.id for dataset in part.datasets] == ["d0", "d3", "d9"]


def test_a_small_graph_is_used_whole(line: Snapshot):
    assert nearby(line, "d0", {}, most=10) == (line, None)
