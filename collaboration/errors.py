"""What a user can do wrong when two models work together; each message says what to do."""

from __future__ import annotations

from matchgraph.errors import Error


class CollaborationError(Error):
    """Anything of student and teacher that a user can put right."""


class InvalidPlan(CollaborationError, ValueError):
    """A plan has a value that cannot be worked with."""


class NotCalibrated(CollaborationError):
    """There is no threshold for a student and its teacher."""


class CalibrationDiffers(CollaborationError):
    """A threshold was calibrated under other settings than those it is to be used under."""


class NoTrials(CollaborationError):
    """There is nothing measured to tune or evaluate on."""
