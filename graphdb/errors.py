"""Errors of `graphdb` that a user can cause; each message says what was wrong, where, and what to do."""

from __future__ import annotations

from matchgraph.errors import Error


class GraphError(Error):
    """Base of this package's errors; a command shows one as a single line and exits with 2."""


class SettingsInvalid(GraphError):
    """An environment variable or option has a value that cannot be used."""


class ArtifactUnavailable(GraphError):
    """A jar of Neo4j or of Graph Data Science could not be fetched."""


class ArtifactMismatch(GraphError):
    """What was fetched is not what the lock file names."""


class ServerDidNotStart(GraphError):
    """The managed Neo4j stopped or stayed silent before it was ready."""


class ServerNotManaged(GraphError):
    """The command is about the managed server, but the settings name another one."""


class BackupFailed(GraphError):
    """The managed database could not be backed up or restored."""


class ServerUnreachable(GraphError):
    """No Neo4j answers at the address."""


class DatabaseNotFound(GraphError):
    """Neo4j answers but has no database of that name."""


class AuthenticationFailed(GraphError):
    """Neo4j answers but refuses the user or the password."""


class GdsMissing(GraphError):
    """The Neo4j has no Graph Data Science library."""


class QueryRefused(GraphError):
    """Neo4j refused a statement: its syntax, a parameter, or a write where only reads are allowed."""


class GuardFailed(GraphError):
    """A statement that states the condition of a transaction found nothing; the transaction was undone.

    Args:
        position: that of the statement, from 0.
        statements: how many the transaction has.
    """

    def __init__(self, position: int, statements: int) -> None:
        self.position = position
        super().__init__(f"Statement {position + 1} of {statements} found nothing; all were rolled back.")


class GraphChanged(GraphError):
    """What a write was computed from is no longer what the graph holds; nothing was written."""


class ContentChanged(GraphChanged):
    """Another writer has given an id other content since it was read; nothing was written."""


class ConstraintViolated(GraphError):
    """A write would break a uniqueness constraint of the graph."""


class DatabaseFailed(GraphError):
    """Neo4j could not carry out a statement for a reason on its own side (memory, disk, a lock)."""


class InvalidId(GraphError, ValueError):
    """An id is empty, too long, or has control characters."""


class MixedExtractors(GraphError):
    """Values of one metric were measured with different extractors and cannot be compared."""


class InvalidValue(GraphError, ValueError):
    """A value to be stored is not finite, out of its range, or of the wrong type."""


class UnknownMetric(GraphError):
    """A metric is neither known to us nor defined in the graph."""


class NodeNotFound(GraphError):
    """A model or dataset is not in the graph."""


class QueryNotFound(GraphError):
    """No named query of that name exists."""


class ParameterInvalid(GraphError, ValueError):
    """A query got a parameter it has no use for, or a value that is not of the parameter's type."""


class MigrationFailed(GraphError):
    """The graph's schema could not be brought up to date, or is of a newer version than this program
    knows.
    """


class EmbeddingFailed(GraphError):
    """Node embeddings could not be computed from the nodes and edges given."""


class MissingOptionalDependency(GraphError, ImportError):
    """A library that is not installed by default is needed."""
