"""Errors of collaboration that a user can cause; each message says what to do."""

from __future__ import annotations

from matchgraph.errors import Error


class CollaborationError(Error):
    """Base of the errors of collaboration that a user can fix."""


class InvalidPlan(CollaborationError, ValueError):
    """A plan has an invalid value."""


class NotCalibrated(CollaborationError):
    """There is no threshold for a student and its teacher."""


class CalibrationDiffers(CollaborationError):
    """A threshold was calibrated under other settings than those it is to be used under."""


class NoTrials(CollaborationError):
    """There is nothing measured to tune or evaluate on."""
