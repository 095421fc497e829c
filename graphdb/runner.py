"""The one seam to the database: the only module that imports the Neo4j driver.

Values go in as plain Python (NumPy is converted here) and come out as plain Python; the driver's errors leave
as ours. The driver is imported on first use, since it brings pandas with it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from matchgraph.graphdb import queries
from matchgraph.graphdb.errors import (
    AuthenticationFailed,
    ConstraintViolated,
    DatabaseFailed,
    DatabaseNotFound,
    GdsMissing,
    GraphError,
    GuardFailed,
    InvalidValue,
    QueryRefused,
    ServerUnreachable,
    SettingsInvalid,
)
from matchgraph.graphdb.values import plain, rendered_row

if TYPE_CHECKING:
    import neo4j
    from graphdatascience import GraphDataScience

CONNECTION_TIMEOUT_S = 10
PATIENCE_S = 30.0
SCHEMES = ("bolt", "bolt+s", "bolt+ssc", "neo4j", "neo4j+s", "neo4j+ssc")
ADDRESS_HINT = "Use bolt://HOST:PORT or neo4j+s://HOST."
ACCESS_MODE_CODE = "Neo.ClientError.Statement.AccessMode"
EXISTS_CODES = (
    "Neo.ClientError.Schema.ConstraintAlreadyExists",
    "Neo.ClientError.Schema.EquivalentSchemaRuleAlreadyExists",
    "Neo.ClientError.Schema.IndexAlreadyExists",
)
MEMORY_CODES = (
    "Neo.TransientError.General.MemoryPoolOutOfMemoryError",
    "Neo.TransientError.General.OutOfMemoryError",
)
DATABASE_CODE = "Neo.ClientError.Database.DatabaseNotFound"
RATE_LIMIT_CODE = "Neo.ClientError.Security.AuthenticationRateLimit"

# Lost connections are reported by the errors that come of them; the driver's own log would say it twice.
logging.getLogger("neo4j").addHandler(logging.NullHandler())


class Runner:
    """Runs statements on one Neo4j. A context manager; safe to share between threads, as the driver is.

    Args:
        uri: a Bolt address, `bolt://...` or `neo4j[+s]://...`.
        user: the user's name.
        password: the user's password.
        database: name of the database; None for the user's home database.
        patience_s: for so long a statement is tried again after a lost connection or a deadlock.

    Raises:
        SettingsInvalid: the address is not one that the driver knows.
    """

    def __init__(
        self,
        uri: str,
        user: str,
        password: str,
        *,
        database: str | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        import neo4j
        from neo4j.exceptions import ConfigurationError

        _check_address(uri)
        self.uri = uri
        self.user = user
        self.database = database
        self._password = password
        self._gds: GraphDataScience | None = None
        try:
            self._driver = neo4j.GraphDatabase.driver(
                uri,
                auth=(user, password),
                user_agent="matchgraph",
                connection_timeout=min(CONNECTION_TIMEOUT_S, patience_s),
                max_transaction_retry_time=patience_s,
                notifications_min_severity="OFF",
            )
        except (ConfigurationError, ValueError) as error:
            raise SettingsInvalid(
                f"{uri!r} is not the address of a Neo4j server: {str(error).rstrip('.')}. {ADDRESS_HINT}"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back; the server keeps running."""
        self._gds = None
        self._driver.close()

    def with_patience(self, patience_s: float) -> Runner:
        """Another runner on the same server, which gives up after another time; close it as well."""
        return Runner(self.uri, self.user, self._password, database=self.database, patience_s=patience_s)

    def verify(self) -> None:
        """Run the smallest statement once, without the retries of a managed transaction.

        Raises:
            ServerUnreachable: no server answers at the address, or the database is not online yet.
            AuthenticationFailed: the user or the password is refused.
        """
        with self._errors(), self._session(default_access_mode="READ") as session:
            session.run(queries.load("status/ping")).consume()

    def read(self, query: str, **params: Any) -> list[dict[str, Any]]:
        """Run one reading statement in a managed transaction.

        Args:
            query: the statement, with `$name` for each value.
            params: the values.

        Returns:
            One dict per row, keys in the order of RETURN.

        Raises:
            GraphError: by kind, see `graphdb.errors`.
        """
        return self.read_only(query, params)[1]

    def read_only(self, cypher: str, params: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
        """Run any statement in a transaction in which the server refuses writes.

        Args:
            cypher: the statement; may be a user's own.
            params: its values.

        Returns:
            The column names (also where there are no rows) and one dict per row.

        Raises:
            QueryRefused: the statement writes, or is wrong.
        """

        def work(transaction: neo4j.ManagedTransaction) -> tuple[list[str], list[dict[str, Any]]]:
            result = transaction.run(cypher, plain(params))
            columns = list(result.keys())
            return columns, [rendered_row(record) for record in result]

        with self._errors(), self._session() as session:
            return session.execute_read(work)

    def write(self, query: str, **params: Any) -> list[dict[str, Any]]:
        """Run one writing statement in a managed transaction.

        The driver may run it again after a lost connection or a deadlock, so it must be idempotent (MERGE,
        SET).

        Args:
            query: the statement.
            params: its values.

        Returns:
            One dict per row.
        """
        return self.write_many([(query, params)])[0]

    def write_many(
        self, statements: Sequence[tuple[str, Mapping[str, Any]]], *, guards: Collection[int] = ()
    ) -> list[list[dict[str, Any]]]:
        """Run several idempotent statements in one transaction: all of them hold, or none.

        Args:
            statements: pairs of a statement and its values, run in this order.
            guards: positions of statements that state a condition: where one gives no row, nothing is
                written.

        Returns:
            The rows of each statement.

        Raises:
            GuardFailed: a guard gave no row.
        """
        prepared = [(query, plain(params)) for query, params in statements]

        def work(transaction: neo4j.ManagedTransaction) -> list[list[dict[str, Any]]]:
            results = []
            for position, (query, params) in enumerate(prepared):
                rows = [rendered_row(record) for record in transaction.run(query, params)]
                if position in guards and not rows:
                    raise GuardFailed(position, len(prepared))
                results.append(rows)
            return results

        with self._errors(), self._session() as session:
            return session.execute_write(work)

    def schema(self, query: str) -> None:
        """Run one schema statement (a constraint, an index) in a managed transaction of its own.

        Args:
            query: the statement, with IF NOT EXISTS or IF EXISTS.
        """
        from neo4j.exceptions import ClientError

        def work(transaction: neo4j.ManagedTransaction) -> None:
            transaction.run(query).consume()

        with self._errors(), self._session() as session:
            try:
                session.execute_write(work)
            except ClientError as error:
                # IF NOT EXISTS looks before it has its lock: where two processes create the same thing at
                # once, one may still get the error that it exists. It then finds it at the second try.
                if error.code not in EXISTS_CODES:
                    raise
                session.execute_write(work)

    def gds_version(self) -> str:
        """Version of the server's Graph Data Science library.

        Raises:
            GdsMissing: it has none.
        """
        try:
            return self.read(queries.load("status/gds-version"))[0]["version"]
        except QueryRefused as error:
            raise GdsMissing(
                f"Neo4j at {self.uri} has no Graph Data Science library. Install its plugin there (the "
                "docker-compose.yml of this project does), unset MATCHGRAPH_NEO4J_URI to use the managed "
                "server, or embed with --embedder node2vec+."
            ) from error

    def gds(self) -> GraphDataScience:
        """The Graph Data Science client on this server, over this runner's connections; made on first use."""
        if self._gds is None:
            from graphdatascience import GraphDataScience

            with self._errors():
                self._gds = GraphDataScience(
                    self._driver, database=self.database, arrow=False, show_progress=False
                )
        return self._gds

    def _session(self, **options: Any) -> neo4j.Session:
        return self._driver.session(database=self.database, **options)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from neo4j.exceptions import DriverError, Neo4jError

        try:
            yield
        except (DriverError, Neo4jError, OSError) as error:
            raise as_graph_error(error, self.uri, self.user, self.database) from error
        except (OverflowError, UnicodeEncodeError) as error:
            raise InvalidValue(
                f"A value or statement cannot be sent to Neo4j: {error}. Whole numbers must fit 64 bits, and "
                "text must be Unicode."
            ) from error


def _check_address(uri: str) -> None:
    # The driver also speaks HTTP, as a preview and without transactions of the kind we need.
    if uri.partition("://")[0] not in SCHEMES:
        raise SettingsInvalid(f"{uri!r} is not the address of a Neo4j server. {ADDRESS_HINT}")
    try:
        # Reading the port checks it, which the driver would put off until it connects.
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError as error:
        raise SettingsInvalid(
            f"{uri!r} is not the address of a Neo4j server: {error}. {ADDRESS_HINT}"
        ) from error
    if parts.username or parts.password:
        # Not shown, as it may hold a password.
        raise SettingsInvalid(
            "The address of the Neo4j server contains a user or a password. Put them in "
            "MATCHGRAPH_NEO4J_USER and MATCHGRAPH_NEO4J_PASSWORD instead."
        )


def as_graph_error(error: Exception, uri: str, user: str, database: str | None = None) -> GraphError:
    """The error of this package that a driver's error stands for.

    Args:
        error: what the driver (or a GDS call over it) raised.
        uri: the server's address, for the message.
        user: the user's name, for the message.
        database: the database's name, for the message.

    Returns:
        An error to raise from `error`; its message is one line.
    """
    from neo4j import exceptions as driver_errors

    first_line = (
        (getattr(error, "message", None) or str(error) or type(error).__name__).strip().splitlines()[0]
    )
    code = getattr(error, "code", None) or ""
    match error:
        case driver_errors.AuthError():
            return AuthenticationFailed(
                f"Neo4j at {uri} refuses user {user!r} with this password. Check MATCHGRAPH_NEO4J_USER and "
                "MATCHGRAPH_NEO4J_PASSWORD."
            )
        case driver_errors.ClientError() if code == RATE_LIMIT_CODE:
            return AuthenticationFailed(
                f"Neo4j at {uri} refuses user {user!r} for some seconds after too many wrong passwords. "
                "Correct MATCHGRAPH_NEO4J_PASSWORD, wait, and try again."
            )
        case driver_errors.Neo4jError() if code == DATABASE_CODE:
            return DatabaseNotFound(
                f"Neo4j at {uri} has no database {database!r}. Check MATCHGRAPH_NEO4J_DATABASE."
            )
        case driver_errors.ConstraintError():
            return ConstraintViolated(first_line)
        case driver_errors.ClientError() if code == ACCESS_MODE_CODE:
            return QueryRefused("The statement writes, but only reading is allowed here.")
        case driver_errors.ClientError():
            return QueryRefused(f"Neo4j refuses the statement: {first_line}")
        case driver_errors.Neo4jError() if code in MEMORY_CODES:
            return DatabaseFailed(
                f"Neo4j at {uri} has too little memory: {first_line.rstrip('.')}. Give the managed server "
                "more with MATCHGRAPH_HEAP=4g after `matchgraph graph stop`, or raise the heap of your own."
            )
        case driver_errors.Neo4jError():
            return DatabaseFailed(f"Neo4j at {uri} failed: {first_line} ({code})")
        case driver_errors.ServiceUnavailable() | driver_errors.SessionExpired() | OSError():
            return ServerUnreachable(
                f"No Neo4j answers at {uri}: {first_line.rstrip(' :.')}. Check that it runs and that the "
                "address is right."
            )
        case _:
            return DatabaseFailed(f"The connection to Neo4j at {uri} failed: {first_line}")
