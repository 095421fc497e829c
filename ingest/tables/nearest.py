"""The datasets nearest to one by Frechet distance, out of many, exactly and with few covariances read.

A lower bound from the sketches (`graphdb.sketches`) tells which datasets cannot be among the nearest; only of
the others are covariances read and distances computed, nearest bounds first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.stats.sketches import projected_factor
from matchgraph.training.measure.frechet import GaussianStatistics
from matchgraph.training.measure.scoring import Sample

if TYPE_CHECKING:
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.graphdb.sketches import KnownSketches

# Covariances in one read, and distances between two looks at how near the nearest are by now.
BATCH = 32
# Saved datasets that are compared without a look at their bounds, before the graph is read again.
MOST_FRESH = 64
# Samples in memory: of 512 dimensions each takes 4 MB with its factor.
MOST_HELD = 1_000


class KnownSamples:
    """What one extractor measured on the datasets of a graph; covariances are read when they are needed.

    Args:
        graph: the graph.
        extractor: the extractor's hash.
    """

    def __init__(self, graph: MatchingGraph, extractor: str) -> None:
        self._graph = graph
        self._extractor = extractor
        self._added: dict[str, Sample] = {}
        self._held: dict[str, Sample] = {}
        self._gone: set[str] = set()
        self._fresh: set[str] = set()
        self.read()

    def read(self) -> None:
        """Read from the graph what there is by now."""
        self._fresh.clear()
        self._known = self._graph.sketches(self._extractor)
        self._place = {dataset: place for place, dataset in enumerate(self._known.datasets)}
        self._searched = {
            name: set(metrics) for name, metrics in self._known.searched.items() if name not in self._gone
        }

    def __contains__(self, dataset: str) -> bool:
        stored = dataset in self._place or dataset in self._known.others
        return dataset in self._added or (stored and dataset not in self._gone)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(({*self._place, *self._known.others} - self._gone) | self._added.keys()))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def searched(self, dataset: str) -> set[str]:
        """Metrics by which a dataset was compared with its nearest ones, see `Statistics.searched`."""
        return self._searched.get(dataset, set())

    def add(self, dataset: str, sample: Sample, searched: Collection[str] | None = None) -> None:
        """Take a sample of a dataset in place of what was read.

        Args:
            dataset: its id.
            sample: the sample.
            searched: of one that was saved, see `Statistics.searched`; None of one that is in the graph as it
                is, whose features are new here.
        """
        self._gone.discard(dataset)
        self._added[dataset] = sample
        if searched is None:
            return
        self._searched[dataset] = set(searched)
        self._fresh.add(dataset)
        if len(self._fresh) > MOST_FRESH:
            self._added.clear()
            self.read()

    def forget(self, dataset: str) -> None:
        """Leave a dataset out from now on."""
        self._added.pop(dataset, None)
        self._held.pop(dataset, None)
        self._gone.add(dataset)
        self._searched.pop(dataset, None)

    def samples(self, datasets: Iterable[str]) -> dict[str, Sample]:
        """Samples of some datasets, in their order; one that was removed in the meantime is left out."""
        wanted = list(datasets)
        missing = [name for name in wanted if name not in self._added and name not in self._held]
        if len(self._held) + len(missing) > MOST_HELD:
            self._held = {name: self._held[name] for name in wanted if name in self._held}
        for start in range(0, len(missing), BATCH):
            for own in self._graph.statistics(self._extractor, missing[start : start + BATCH]):
                self._held[own.dataset] = Sample(GaussianStatistics(own.n, own.mean, own.covariance))
        found = {name: self._added.get(name) or self._held.get(name) for name in wanted}
        return {name: sample for name, sample in found.items() if sample is not None}

    def nearest(
        self,
        own: Sample,
        count: int | None,
        *,
        without: str,
        always: Collection[str] = (),
        radii: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """Squared Frechet distances to the nearest datasets.

        Args:
            own: the sample to compare with.
            count: how many nearest datasets to find; None for all datasets.
            without: a dataset that is left out.
            always: datasets that are compared whatever their distance.
            radii: of other datasets, the distance within which they are to be found as well.

        Returns:
            By dataset, at least the `count` nearest, those of `always` and those within their radius.
        """
        names = [name for name in self if name != without]
        if count is None or len(names) <= count:
            return self._distances(own, names)
        radii = radii or {}
        sketched = {name for name in names if name in self._place and name not in self._fresh}
        found = self._distances(own, [n for n in names if n not in sketched or n in always])
        places = np.array([self._place[n] for n in names if n in sketched and n not in found], dtype=int)
        if len(places):
            search = _Search(self._known, self._place, own, count, radii)
            for batch in search.batches(places, found):
                found |= self._distances(own, [self._known.datasets[place] for place in batch])
        limit = max(sorted(found.values())[:count])
        return {
            name: value
            for name, value in found.items()
            if value <= max(limit, radii.get(name, 0.0)) or name in always
        }

    def _distances(self, own: Sample, names: list[str]) -> dict[str, float]:
        samples = self.samples(names)
        values = own.distances(list(samples.values()), "fid")
        return {name: distance.value for name, distance in zip(samples, values, strict=True)}


class _Search:
    """Which datasets to compare next."""

    def __init__(
        self,
        known: KnownSketches,
        place: Mapping[str, int],
        own: Sample,
        count: int,
        radii: Mapping[str, float],
    ) -> None:
        self._sketches, self._count = known.sketches, count
        gaussian = own.statistics
        # Only where something is sketched is there a search.
        assert known.directions is not None
        self._radii = np.zeros(len(known.datasets))
        for name in radii.keys() & place.keys():
            self._radii[place[name]] = radii[name]
        trace = float(np.trace(gaussian.covariance))
        self._own = gaussian.mean, trace, projected_factor(gaussian.covariance, known.directions)

    def batches(self, places: np.ndarray, found: Mapping[str, float]) -> Iterator[np.ndarray]:
        """Yield the places of datasets to compare, until no other one can be among the nearest.

        Args:
            places: those that are not compared yet.
            found: distances; grows by those of a batch before the next one is asked for.
        """
        quick = self._sketches.quick_bounds(*self._own[:2])[places]
        order = np.argsort(quick)
        places, quick = places[order], quick[order]
        # The first, by means and traces alone, only have to give a first limit.
        head = max(4 * self._count, 256)
        bounds = np.full(len(places), np.inf)
        bounds[:head] = self._sketches.bounds(places[:head], *self._own)
        first = np.argsort(bounds)[: self._count]
        done = np.zeros(len(places), dtype=bool)
        done[first] = True
        yield places[first]
        limits = np.maximum(self._limit(found), self._radii[places])
        rest = np.flatnonzero((quick <= limits) & np.isinf(bounds))
        bounds[rest] = self._sketches.bounds(places[rest], *self._own)
        while True:
            limits = np.maximum(self._limit(found), self._radii[places])
            left = np.flatnonzero((bounds <= limits) & ~done)
            if not left.size:
                return
            batch = left[np.argsort(bounds[left])][:BATCH]
            done[batch] = True
            yield places[batch]

    def _limit(self, found: Mapping[str, float]) -> float:
        values = sorted(found.values())
        return values[self._count - 1] if len(values) >= self._count else np.inf
