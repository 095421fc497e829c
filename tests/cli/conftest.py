"""The zoo of the predictor's tests, for its commands."""

from __future__ import annotations

from tests.predictor.conftest import save, zoo

__all__ = ["save", "zoo"]
