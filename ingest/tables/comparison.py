"""Datasets measured against those of the graph: embedding, feature statistics and distances."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.graphdb.checks import Property
from matchgraph.graphdb.defaults import NEIGHBOURS
from matchgraph.graphdb.errors import ContentChanged, GraphChanged, UnknownMetric
from matchgraph.graphdb.models import Dataset, Metric, Similar, Statistics
from matchgraph.ingest.tables.image_folders import ImageFolder, listed_hash, source_of
from matchgraph.ingest.tables.nearest import KnownSamples
from matchgraph.training.measure.kernels import Distance
from matchgraph.training.measure.names import OF_FEATURES, PROBE
from matchgraph.training.measure.scoring import Scorer

if TYPE_CHECKING:
    from PIL import Image

    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.training.measure.extractors import CaptionExtractor, Extractor
    from matchgraph.training.measure.names import Measure
    from matchgraph.training.measure.scoring import Reference, Sample

METRIC = "clip_fid"


@dataclass(frozen=True, eq=False)
class DatasetMeasurement:
    """A dataset as it was measured: what `save_datasets` takes, and more.

    Args:
        dataset: the node.
        statistics: of its features, by each extractor.
        similar: its distances to other datasets.
        notes: distances that could not be measured, and why.
        reference: its features, to compare others with.
    """

    dataset: Dataset
    statistics: tuple[Statistics, ...]
    similar: tuple[Similar, ...]
    notes: tuple[str, ...]
    reference: Reference


class Comparison:
    """Compares datasets with those of the graph; of each, what distances need is read and computed once.

    Args:
        graph: the graph; read, and metrics that it does not know are defined in it.
        extractor: the probe model.
        scorer: the metrics, with their extractors, the probe among them; by default CLIP-FID of the probe.
        datasets: those of the graph, where they have been read already.
        neighbours: how many nearest datasets each one is compared with; None for all.
    """

    def __init__(
        self,
        graph: MatchingGraph,
        extractor: Extractor | CaptionExtractor,
        scorer: Scorer | None = None,
        *,
        datasets: Sequence[Dataset] | None = None,
        neighbours: int | None = NEIGHBOURS,
    ) -> None:
        self._probe = extractor
        self._scorer = scorer or Scorer((METRIC,), {PROBE: extractor})
        self._graph = graph
        known = graph.datasets() if datasets is None else datasets
        self._stored = {dataset.id: dataset for dataset in known}
        self._neighbours = neighbours
        self._samples = {
            name: KnownSamples(graph, instrument.hash) for name, instrument in self._scorer.extractors.items()
        }
        for measure in self._scorer.measures:
            define_metric(graph, measure)

    @cached_property
    def _pairs(self) -> dict[str, dict[tuple[str, str], float]]:
        """Distances of the datasets that were compared, by metric."""
        hashes = {name: instrument.hash for name, instrument in self._scorer.extractors.items()}
        return {
            measure.metric: self._graph.compared(measure.metric, hashes[measure.extractor])
            for measure in self._scorer.measures
        }

    @property
    def has_statistics(self) -> bool:
        """Whether there is any dataset to compare another one with."""
        return any(map(len, self._samples.values()))

    def is_known(self, dataset: str, content: str) -> bool:
        """Say whether the graph holds all there is to measure of a dataset with these images."""
        stored = self._stored.get(dataset)
        if stored is None or not _is_same(stored, content, self._probe):
            return False
        for measure in self._scorer.measures:
            known = self._samples[measure.extractor]
            pairs = self._pairs[measure.metric]
            apart = (other for other in known if other != dataset and _pair(dataset, other) not in pairs)
            if any(not self._were_searched(measure, dataset, other) for other in apart):
                return False
        return all(dataset in known for known in self._samples.values())

    def moved(self, found: ImageFolder) -> Dataset | None:
        """A known dataset with the folder where its images are now; None if it is the one that is known."""
        stored, source = self._stored[found.id], str(found.folder.resolve())
        if stored.properties.get("source") == source:
            return None
        self._stored[found.id] = replace(stored, properties={**stored.properties, "source": source})
        return self._stored[found.id]

    def forget_changed(self, dataset: str, content: str, *, replaced: bool = False) -> list[str]:
        """Forget what was measured on other images of a dataset; returns its id if there are any.

        Args:
            dataset: its id.
            content: hash of its images now.
            replaced: whether it is another dataset now, of which nothing known is true.
        """
        stored = self._stored.get(dataset)
        before = stored.properties.get("content_hash") if stored is not None else None
        if before in (None, content):
            return []
        if replaced:
            del self._stored[dataset]
        for known in self._samples.values():
            known.forget(dataset)
        for metric, pairs in self._pairs.items():
            self._pairs[metric] = {pair: value for pair, value in pairs.items() if dataset not in pair}
        return [dataset]

    def measure(
        self,
        found: ImageFolder,
        content: str,
        *,
        save: bool = False,
        load: Callable[[Path], Image.Image] | None = None,
    ) -> DatasetMeasurement:
        """Measure a dataset and its distances to the known datasets nearest to it; nothing is written.

        Args:
            found: the dataset.
            content: hash of its images, see `images_hash`.
            save: whether it is going to be saved: it is then also compared with datasets that it is one of
                the nearest of, and with those of which it is not known that they were compared with others.
            load: how an image is decoded, see `Scorer.reference`.

        Raises:
            BadDataset: a metric of captions finds too few of them.
        """
        reference = self._scorer.reference(found.folder, content, images=found.images, load=load)
        similar: list[Similar] = []
        notes: list[str] = []
        for measure in self._scorer.measures:
            instrument = self._scorer.extractors[measure.extractor]
            own = reference.samples[measure.extractor]
            near = self._nearest(found.id, own, measure, save=save)
            if measure.distance not in OF_FEATURES:
                there = self._samples[measure.extractor].samples(near)
                distances = [Distance(value) for value in near.values()]
            else:
                others = {other: self._sample(other, measure) for other in near}
                notes += [
                    f"{measure.metric} of {found.id!r} and {other!r} was not measured: the images of "
                    f"{other!r} are not here as they were ingested."
                    for other, sample in others.items()
                    if sample is None
                ]
                there = {other: sample for other, sample in others.items() if sample is not None}
                distances = own.distances(list(there.values()), measure.distance)
            for (other, sample), distance in zip(there.items(), distances, strict=True):
                provenance: dict[str, Property] = {
                    "extractor": instrument.hash,
                    "extractor_name": instrument.name,
                    "resize": instrument.resize,
                    "version": measure.version,
                    # Of two samples the smaller one limits how far their distance can be trusted.
                    "n_real": min(own.n, sample.n),
                }
                if distance.std is not None:
                    provenance["std"] = distance.std
                similar.append(Similar(found.id, other, measure.metric, distance.value, provenance))
        statistics = {
            name: Statistics(
                found.id,
                instrument.hash,
                instrument.resize,
                reference.samples[name].n,
                reference.samples[name].statistics.mean,
                reference.samples[name].statistics.covariance,
                self._searched_by(found.id, name),
            )
            for name, instrument in self._scorer.extractors.items()
        }
        probed = next(known for known in statistics.values() if known.extractor == self._probe.hash)
        dataset = _merged(self._stored.get(found.id), _described(found, content, probed, self._probe))
        return DatasetMeasurement(
            dataset, tuple(statistics.values()), tuple(similar), tuple(notes), reference
        )

    def measure_and_save(
        self,
        graph: MatchingGraph,
        found: ImageFolder,
        content: str,
        *,
        changed: Collection[str] = (),
        replaced: Collection[str] = (),
        read: Mapping[str, Dataset] | None = None,
    ) -> DatasetMeasurement:
        """Measure a dataset, and save it with its distances to all others of the graph.

        Where another writer adds a dataset in the meantime, the two are compared before this one is saved.

        Args:
            graph: the graph.
            found: the dataset.
            content: hash of its images, see `images_hash`.
            changed: see `MatchingGraph.save_datasets`.
            replaced: likewise.
            read: likewise.

        Returns:
            What was saved.

        Raises:
            ContentChanged: another writer has saved other images under its id; nothing was written.
            BadDataset: a metric of captions finds too few of them.
        """
        while True:
            measured = self.measure(found, content, save=True)
            try:
                graph.save_datasets(
                    [measured.dataset],
                    measured.statistics,
                    measured.similar,
                    changed=changed,
                    replaced=replaced,
                    compared=self.compared,
                    read=read,
                )
            except ContentChanged:
                raise
            except GraphChanged:
                self._read_new(graph)
            else:
                self.add(measured)
                return measured

    @property
    def compared(self) -> dict[str, set[str]]:
        """By the hash of each extractor, the datasets that `measure` compares with."""
        return {
            instrument.hash: set(self._samples[name]) for name, instrument in self._scorer.extractors.items()
        }

    def _read_new(self, graph: MatchingGraph) -> None:
        """Add datasets that others have added to the graph to the known ones."""
        self._stored |= {
            dataset.id: dataset for dataset in graph.datasets() if dataset.id not in self._stored
        }
        for known in self._samples.values():
            known.read()

    def add(self, measured: DatasetMeasurement) -> None:
        """Take a dataset among the known ones."""
        self._stored[measured.dataset.id] = measured.dataset
        for name, sample in measured.reference.samples.items():
            searched = self._searched_by(measured.dataset.id, name)
            self._samples[name].add(measured.dataset.id, sample, searched)
        for similar in measured.similar:
            self._pairs[similar.metric][similar.pair] = similar.value

    def _nearest(self, dataset: str, own: Sample, measure: Measure, *, save: bool) -> dict[str, float]:
        """The datasets to compare one with by a metric, and their Frechet distances, sorted by id."""
        known = self._samples[measure.extractor]
        always: list[str] = []
        radii: dict[str, float] = {}
        if save and self._neighbours is not None and len(known) > self._neighbours:
            always = [other for other in known if measure.metric not in known.searched(other)]
            if measure.distance not in OF_FEATURES:
                radii = self._radii(measure.metric)
        found = known.nearest(own, self._neighbours, without=dataset, always=always, radii=radii)
        return dict(sorted(found.items()))

    def _radii(self, metric: str) -> dict[str, float]:
        """How far the last of each dataset's nearest ones is, as far as there are that many."""
        distances: dict[str, list[float]] = {}
        for pair, value in self._pairs[metric].items():
            for dataset in pair:
                distances.setdefault(dataset, []).append(value)
        count = self._neighbours or 0
        return {name: sorted(own)[count - 1] for name, own in distances.items() if len(own) >= count > 0}

    def _searched_by(self, dataset: str, extractor: str) -> tuple[str, ...]:
        """Metrics of an extractor that a dataset is compared with its nearest ones by, once it is saved."""
        now = {measure.metric for measure in self._scorer.measures if measure.extractor == extractor}
        return tuple(sorted(now | self._samples[extractor].searched(dataset)))

    def _were_searched(self, measure: Measure, *datasets: str) -> bool:
        known = self._samples[measure.extractor]
        return self._neighbours is not None and all(
            measure.metric in known.searched(dataset) for dataset in datasets
        )

    def _sample(self, dataset: str, measure: Measure) -> Sample | None:
        """A known dataset as a metric needs it; None where its images would have to be here and are not."""
        from matchgraph.training.errors import TrainingError

        sample = self._samples[measure.extractor].samples([dataset]).get(dataset)
        if sample is None or sample.features is not None:
            return sample
        properties = self._stored[dataset].properties
        folder = source_of(self._stored[dataset])
        content = str(properties.get("content_hash"))
        try:
            if listed_hash(folder) != content:
                return None
            seen = self._scorer.reference(folder, content)
        except TrainingError:
            return None
        for name, known in seen.samples.items():
            # Of the others the graph has no statistics yet.
            if dataset in self._samples[name]:
                self._samples[name].add(dataset, known)
        return seen.samples[measure.extractor]


def define_metric(graph: MatchingGraph, measure: Measure) -> None:
    """Define a metric in the graph where it is not known, as one of which less is better."""
    try:
        graph.metric(measure.metric)
    except UnknownMetric:
        # Kernel distances are unbiased estimates, which may fall a little below zero.
        graph.save_metric(Metric(measure.metric, minimum=0 if measure.distance == "fid" else None))


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)


def _described(
    found: ImageFolder, content: str, statistics: Statistics, extractor: Extractor | CaptionExtractor
) -> Dataset:
    properties: dict[str, Any] = {
        "name": found.id,
        "images": len(found.images),
        "captioned": found.captioned,
        "probe": extractor.name,
        "extractor": extractor.hash,
        "resize": extractor.resize,
        "n_real": statistics.n,
        "source": str(found.folder.resolve()),
        "content_hash": content,
    }
    if found.caption_column is not None:
        properties["caption_column"] = found.caption_column
    return Dataset(found.id, properties, tuple(statistics.mean.tolist()))


def _is_same(stored: Dataset, content: str, extractor: Extractor | CaptionExtractor) -> bool:
    had = (stored.properties.get("content_hash"), stored.properties.get("extractor"))
    return had == (content, extractor.hash)


def _merged(stored: Dataset | None, new: Dataset) -> Dataset:
    """Return `new` with what `stored` says in addition."""
    if stored is None:
        return new
    embedding = stored.embedding if new.embedding is None else new.embedding
    return Dataset(new.id, {**stored.properties, **new.properties}, embedding)
