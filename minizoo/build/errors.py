"""Errors that a user of the small zoo can cause."""

from __future__ import annotations

from matchgraph.errors import Error


class MinizooError(Error):
    """Base of this package's errors."""


class IconPackagesMissing(MinizooError):
    """The icon packages are not where they were looked for."""


class StageNotReady(MinizooError):
    """A stage was asked for before the one it builds on."""


class NonFiniteTraining(MinizooError):
    """A training loss stopped being a number."""


class DatasetsDiffer(MinizooError):
    """Datasets drawn again are not those that were recorded, or would be written over."""
