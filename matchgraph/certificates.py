"""Certificates that the system trusts, as those of a company's proxy, beside the ones that Python brings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def system_certificates() -> Iterator[None]:
    """Trust what the operating system trusts, for all connections that are opened within the block."""
    import truststore

    truststore.inject_into_ssl()
    try:
        yield
    finally:
        truststore.extract_from_ssl()
