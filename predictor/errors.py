"""What can go wrong in predicting: one base error, each cause under its own name."""

from __future__ import annotations

from matchgraph.errors import Error


class PredictorError(Error):
    """Base of the errors a user can cause; the command line shows it as one line and exits with 2."""


class NotEnoughResults(PredictorError):
    """The graph has too few measured models or datasets to learn a ranking from."""


class NoSimilarity(PredictorError):
    """The dataset to predict for has no similarity to any dataset with measured models."""


class ExtractorMismatch(PredictorError):
    """Embeddings or statistics come from different feature extractors and cannot be compared."""


class UnknownTarget(PredictorError):
    """What was asked about is neither a dataset of the graph nor a folder of images."""


class UnknownMetricName(PredictorError):
    """No result of the graph has the requested metric."""


class InvalidRows(PredictorError, ValueError):
    """Rows, ranks or probabilities of the wrong shape, or with non-finite numbers."""


class NothingToPropose(PredictorError):
    """There is no pair to measure, or none that the budget pays for."""


class ProcessEnded(PredictorError):
    """A process that shared the work was ended from outside, or could not begin."""
