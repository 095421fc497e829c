"""The base of every error that a user can cause or fix."""

from __future__ import annotations


class Error(Exception):
    """Something in the input, the settings or the surroundings that a user can change.

    Its message is one line that says what was wrong, where, and what to do. A command prints it and exits
    with 2; any other exception is a defect and keeps its traceback. Each package has its own subclasses.
    """
