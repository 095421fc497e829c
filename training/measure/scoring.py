"""Scores of images by metrics: the images are seen once and never held all together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import BadDataset, UnknownMeasure
from matchgraph.training.images import CaptionedImage, list_captioned_images, load_rgb
from matchgraph.training.measure.extractors.base import BATCH, CaptionExtractor
from matchgraph.training.measure.features import Features, FeatureWriter, read_features, writing
from matchgraph.training.measure.frechet import (
    GaussianStatistics,
    Root,
    distances_between,
    frechet_between,
)
from matchgraph.training.measure.kernels import KID_SUBSETS, Distance, cmmd, kid
from matchgraph.training.measure.names import OF_FEATURES, parse_metric
from matchgraph.training.measure.uncertainty import Uncertainty, frechet_uncertainty, kernel_uncertainty

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from matchgraph.training.measure.extractors import Extractor


@dataclass(frozen=True)
class Score:
    """A figure with the counts and the instrument that its bias depends on.

    Attributes:
        metric: what was measured; smaller is better.
        value: the figure.
        std: standard deviation over subsets where the metric is an average over these, else None.
        n_real: images of the dataset behind the reference.
        n_gen: generated images.
        extractor: hash of the feature extractor.
        extractor_name: what the extractor is called.
        resize: how images came to the extractor's size.
        version: of the metric's definition; values of different versions are not comparable.
        standard_error: of `value` over repeated draws of as many images; None where these are too few.
        bias: how far `value` is expected to lie above that of endlessly many images; None where unbiased.
    """

    metric: str
    value: float
    std: float | None
    n_real: int
    n_gen: int
    extractor: str
    extractor_name: str
    resize: str
    version: str
    standard_error: float | None = None
    bias: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON."""
        return asdict(self)


class Sample:
    """What one extractor made of a set of images: what distances to other sets need, each part taken once.

    Args:
        statistics: mean and covariance, where they are known.
        features: the features themselves, where distances of them are wanted.
    """

    def __init__(
        self, statistics: GaussianStatistics | None = None, features: Features | None = None
    ) -> None:
        self.features = features
        self._statistics = statistics

    @property
    def n(self) -> int:
        """How many images there are."""
        return self.statistics.n if self.features is None else self.features.n

    @property
    def statistics(self) -> GaussianStatistics:
        """Mean and covariance.

        Raises:
            TooFewSamples: of fewer than two images.
        """
        if self._statistics is None:
            if self.features is None:
                raise ValueError("a sample without statistics needs features")
            self._statistics = self.features.statistics
        return self._statistics

    @cached_property
    def root(self) -> Root:
        """The covariance's factor, which costs more than a distance does."""
        return Root(self.statistics)

    def distances(self, others: Sequence[Sample], distance: str) -> list[Distance]:
        """Measure how far each of several samples is from this one; see `distance`."""
        if distance != "fid":
            return [self.distance(other, distance) for other in others]
        return [
            Distance(value) for value in distances_between([(self.root, o.root) for o in others]).tolist()
        ]

    def distance(self, other: Sample, distance: str) -> Distance:
        """Measure how far another sample of the same extractor is from this one.

        Args:
            other: the other.
            distance: one of DISTANCES; all but `fid` need the features of both.

        Raises:
            DistanceError: the samples do not fit, are too small, or have no finite distance.
        """
        if distance == "fid":
            return Distance(frechet_between(self.root, other.root))
        if self.features is None or other.features is None:
            raise ValueError(f"{distance} is of features, and one sample has none")
        if distance == "kid":
            return kid(self.features.rows, other.features.rows)
        return cmmd(
            self.features.rows,
            other.features.rows,
            within_one=self.features.mean_similarity,
            within_two=other.features.mean_similarity,
        )

    def uncertainty(
        self, real: Sample, found: Distance, distance: str, groups: Sequence[int] | None
    ) -> Uncertainty:
        """Say how sure a distance of these generated images to a dataset is.

        Args:
            real: the dataset, `other` of the distance.
            found: the distance.
            distance: which.
            groups: see `training.measure.uncertainty.frechet_uncertainty`.
        """
        if self.features is None:
            return Uncertainty(None)
        if distance == "fid":
            return frechet_uncertainty(self.features.rows, self.statistics, real.root, groups)
        if real.features is None:
            raise ValueError(f"{distance} is of features, and one sample has none")
        further = 0.0 if found.std is None else found.std**2 / KID_SUBSETS
        return kernel_uncertainty(self.features.rows, real.features.rows, distance, groups, further=further)


@dataclass(frozen=True, eq=False)
class Reference:
    """A dataset as the extractors see it.

    Attributes:
        content_hash: of its images.
        samples: by the extractor's name.
    """

    content_hash: str
    samples: Mapping[str, Sample]


class Scorer:
    """Measures sets of images against datasets by several metrics at once.

    Args:
        metrics: their names, see `parse_metric`.
        extractors: by name, all that the metrics need and no matter what others.
        cache_dir: where features of datasets are kept, by content and extractor; None to keep them no longer
            than this process.
        also: extractors that look at datasets though no metric needs them.

    Raises:
        UnknownMeasure: a metric cannot be measured, or its extractor was not given.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        extractors: Mapping[str, Extractor | CaptionExtractor],
        cache_dir: Path | None = None,
        *,
        also: Sequence[str] = (),
    ) -> None:
        self.measures = tuple(parse_metric(metric) for metric in metrics)
        for measure in self.measures:
            if measure.extractor not in extractors:
                option = f"--extractor {measure.extractor}=WEIGHTS"
                raise UnknownMeasure(
                    f"{measure.metric} needs the extractor {measure.extractor!r}, which was not given: name "
                    f"it with {'--probe SPEC' if measure.extractor == 'clip' else option}."
                )
        names = dict.fromkeys([*(measure.extractor for measure in self.measures), *also])
        self.extractors = {name: extractors[name] for name in names}
        self.cache_dir = cache_dir
        self._of_features = {m.extractor for m in self.measures if m.distance in OF_FEATURES}

    def reference(
        self,
        dataset_folder: str | os.PathLike[str],
        content_hash: str,
        *,
        images: Sequence[CaptionedImage] | None = None,
        known: Mapping[str, GaussianStatistics] | None = None,
        load: Callable[[Path], Image.Image] | None = None,
    ) -> Reference:
        """Compute a dataset's features by every extractor in one pass over its images; cached ones are read.

        Args:
            dataset_folder: the image folder.
            content_hash: what its images and captions are known by.
            images: those of the folder that count; None for all.
            known: statistics of the dataset by extractor hash, which spare the pass where a metric needs no
                more than these.
            load: decodes an image; called once for each, in their order. `load_rgb` by default.

        Raises:
            BadDataset: the folder cannot be read, or a metric of captions finds too few of them.
            BadImage: an image cannot be read.
        """
        samples: dict[str, Sample] = {}
        missing: list[str] = []
        for name, extractor in self.extractors.items():
            if name not in self._of_features and extractor.hash in (known or {}):
                samples[name] = Sample((known or {})[extractor.hash])
                continue
            path = self._cached(content_hash, extractor)
            found = read_features(path, _facts(content_hash, extractor)) if path else None
            if found is None:
                missing.append(name)
            else:
                samples[name] = Sample(features=found)
        if missing:
            chosen = list_captioned_images(dataset_folder) if images is None else images
            samples |= self._measure(dataset_folder, content_hash, chosen, missing, load or load_rgb)
        return Reference(content_hash, {name: samples[name] for name in self.extractors})

    def score(
        self,
        images: Iterable[Image.Image],
        reference: Reference,
        *,
        batch_size: int = BATCH,
        groups: Sequence[int] | None = None,
    ) -> tuple[Score, ...]:
        """Measure generated images against a dataset by every metric, in one pass over the images.

        Args:
            images: at least two, of mode RGB; no more than a batch of them is held at once.
            reference: the dataset, from this scorer.
            batch_size: images in one forward pass.
            groups: which caption each image is drawn for, see
                `training.measure.uncertainty.frechet_uncertainty`; None for images drawn independently.

        Returns:
            One score for each metric, in their order.

        Raises:
            TooFewSamples: fewer than two images.
            UnknownMeasure: a metric is of captions, which generated images do not have.
            DistanceError: a distance is not finite.
        """
        pending = iter(images)
        with ExitStack() as stack:
            spools = {name: stack.enter_context(writing(self.cache_dir)) for name in self.extractors}
            while batch := list(islice(pending, batch_size)):
                for name, features in self.see(batch).items():
                    spools[name].add(features)
                del batch
            made = {name: Sample(features=spool.finish()) for name, spool in spools.items()}
        return self.scores(made, reference, groups)

    def see(self, images: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        """Features of generated images by each extractor, (n, d), by the extractor's name.

        Args:
            images: of mode RGB.

        Raises:
            UnknownMeasure: a metric is of captions, which generated images do not have.
        """
        for measure in self.measures:
            if isinstance(self.extractors[measure.extractor], CaptionExtractor):
                raise UnknownMeasure(
                    f"{measure.metric} compares captions, which generated images do not have; it is a metric "
                    "between datasets only."
                )
        return {name: extractor.features(images) for name, extractor in self.extractors.items()}

    def scores(
        self, made: Mapping[str, Sample], reference: Reference, groups: Sequence[int] | None = None
    ) -> tuple[Score, ...]:
        """Measure generated images whose features are known against a dataset by every metric.

        Args:
            made: the images, by the extractor's name.
            reference: the dataset, from this scorer.
            groups: which caption each image was drawn for; None for images drawn independently.

        Returns:
            One score for each metric, in their order.

        Raises:
            TooFewSamples: fewer than two images.
            DistanceError: a distance is not finite.
        """
        scores = []
        for measure in self.measures:
            extractor, real = self.extractors[measure.extractor], reference.samples[measure.extractor]
            sample = made[measure.extractor]
            found = sample.distance(real, measure.distance)
            sure = sample.uncertainty(real, found, measure.distance, groups)
            scores.append(
                Score(
                    metric=measure.metric,
                    value=found.value,
                    std=found.std,
                    n_real=real.n,
                    n_gen=sample.n,
                    extractor=extractor.hash,
                    extractor_name=extractor.name,
                    resize=extractor.resize,
                    version=measure.version,
                    standard_error=sure.standard_error,
                    bias=sure.bias,
                )
            )
        return tuple(scores)

    def _measure(
        self,
        folder: str | os.PathLike[str],
        content_hash: str,
        images: Sequence[CaptionedImage],
        names: Sequence[str],
        load: Callable[[Path], Image.Image],
    ) -> dict[str, Sample]:
        with ExitStack() as stack:
            writers: dict[str, FeatureWriter] = {
                name: stack.enter_context(writing(self.cache_dir)) for name in names
            }
            seeing = [n for n in names if not isinstance(self.extractors[n], CaptionExtractor)]
            for start in range(0, len(images), BATCH) if seeing else ():
                batch = [load(image.path) for image in images[start : start + BATCH]]
                for name in seeing:
                    writers[name].add(self.extractors[name].features(batch))
            for name in names:
                if name not in seeing:
                    self._read_captions(name, folder, images, writers[name])
            found = {}
            for name, writer in writers.items():
                extractor = self.extractors[name]
                target = self._cached(content_hash, extractor)
                found[name] = Sample(features=writer.finish(target, _facts(content_hash, extractor)))
            return found

    def _read_captions(
        self,
        name: str,
        folder: str | os.PathLike[str],
        images: Sequence[CaptionedImage],
        writer: FeatureWriter,
    ) -> None:
        captions = [image.caption for image in images if image.caption]
        if len(captions) < 2:
            raise BadDataset(
                f"{folder} has {len(captions)} captions; {name} reads captions and needs two at least. Write "
                "them to metadata.jsonl, or leave its metrics out."
            )
        for batch in self.extractors[name].stream(captions):
            writer.add(batch)

    def _cached(self, content_hash: str, extractor: Extractor | CaptionExtractor) -> Path | None:
        if self.cache_dir is None:
            return None
        return self.cache_dir / f"{content_hash}-{extractor.hash}.safetensors"


def _facts(content_hash: str, extractor: Extractor | CaptionExtractor) -> dict[str, str]:
    return {"content": content_hash, "extractor": extractor.hash}
