"""Errors of routing that a user can cause; each message says what to do."""

from __future__ import annotations

from matchgraph.errors import Error


class RoutingError(Error):
    """Base of the errors of routing that a user can fix."""


class InvalidScores(RoutingError):
    """A table of qualities, costs or lambda cannot be routed by."""


class BudgetTooSmall(RoutingError):
    """No choice of candidates is as cheap as the budget."""


class UnknownCandidate(RoutingError):
    """A candidate or its model is not in the graph."""


class NotEnoughScores(RoutingError):
    """The graph has too few scored prompts to estimate from."""


class UnusableEstimator(RoutingError):
    """A saved estimator cannot be read, or is of other prompts, metrics or weights."""


class BadScoreFile(RoutingError):
    """A file of scores cannot be used."""


class BadEmbeddingFile(RoutingError):
    """A file of embeddings cannot be used, or another encoder made those of the graph."""


class BadPromptPairs(RoutingError):
    """A file of paraphrases cannot be used."""


class UnknownPrompt(RoutingError):
    """A file of embeddings does not have a prompt."""


class NotFitted(RoutingError):
    """There is no router for a metric yet."""


class AddressUnusable(RoutingError):
    """The service cannot listen where it was asked to."""


class NoPrompts(RoutingError):
    """There is no prompt, or none that is left."""
