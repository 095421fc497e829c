"""From the environment to a ready database: which Neo4j, reached how, with what it must have."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from matchgraph.graphdb.errors import SettingsInvalid
from matchgraph.graphdb.runner import Runner
from matchgraph.progress import Progress

DEFAULT_USER = "neo4j"
HOME_VARIABLE = "MATCHGRAPH_HOME"
URI_VARIABLE = "MATCHGRAPH_NEO4J_URI"
USER_VARIABLE = "MATCHGRAPH_NEO4J_USER"
PASSWORD_VARIABLE = "MATCHGRAPH_NEO4J_PASSWORD"
DATABASE_VARIABLE = "MATCHGRAPH_NEO4J_DATABASE"


@dataclass(frozen=True)
class Settings:
    """Where the graph is.

    Attributes:
        home: data folder of the managed server (and of what other packages keep beside it).
        uri: Bolt address of a Neo4j of the user's own; None for the managed one.
        user: its user.
        password: its password; None with the managed server, which has its own.
        database: name of the database; None for the user's home database, which the managed server's is.

    Raises:
        SettingsInvalid: an address without a password, or a user, password or database without an address.
    """

    home: Path
    uri: str | None = None
    user: str = DEFAULT_USER
    password: str | None = None
    database: str | None = None

    def __post_init__(self) -> None:
        if self.uri and not self.password:
            raise SettingsInvalid(
                f"{URI_VARIABLE} is set to {self.uri} but {PASSWORD_VARIABLE} is not. Set it too."
            )
        if self.password and not self.uri:
            raise SettingsInvalid(
                f"{PASSWORD_VARIABLE} is set but {URI_VARIABLE} is not. Set the address of your Neo4j too, "
                "or unset the password to use the managed one."
            )
        if self.user != DEFAULT_USER and not self.uri:
            raise SettingsInvalid(
                f"{USER_VARIABLE} is set to {self.user} but {URI_VARIABLE} is not. Set the address of your "
                "Neo4j too, or unset the user to use the managed one."
            )
        if self.database and not self.uri:
            raise SettingsInvalid(
                f"{DATABASE_VARIABLE} is set to {self.database} but {URI_VARIABLE} is not. Set the address "
                "of your Neo4j too, or unset the database to use the managed one."
            )

    @property
    def managed(self) -> bool:
        """Whether the server is ours to start and stop."""
        return not self.uri


def settings_from_environment() -> Settings:
    """Read the settings from `MATCHGRAPH_HOME` and `MATCHGRAPH_NEO4J_URI`, `_USER`, `_PASSWORD`, `_DATABASE`;
    empty means unset.

    Returns:
        The settings; home defaults to the user's data folder.

    Raises:
        SettingsInvalid: they do not go together.
    """
    configured = os.environ.get(HOME_VARIABLE)
    if configured:
        try:
            home = Path(configured).expanduser().absolute()
        except RuntimeError as error:
            raise SettingsInvalid(
                f"{HOME_VARIABLE} is {configured!r}, but this machine has no such user. Name a folder."
            ) from error
    else:
        import platformdirs

        home = Path(platformdirs.user_data_dir("matchgraph"))
    return Settings(
        home=home,
        uri=os.environ.get(URI_VARIABLE) or None,
        user=os.environ.get(USER_VARIABLE) or DEFAULT_USER,
        password=os.environ.get(PASSWORD_VARIABLE) or None,
        database=os.environ.get(DATABASE_VARIABLE) or None,
    )


def connect(
    settings: Settings | None = None, *, on_progress: Progress | None = None, apply_schema: bool = True
) -> Runner:
    """A runner on a database that answers and has this project's schema.

    Starts the managed server, or repairs it after a crash, if the settings name no other.

    Args:
        settings: None for those of the environment.
        on_progress: called with the bytes fetched at a first start; None for a bar on stderr.
        apply_schema: whether to create the constraints and indexes that are missing.

    Returns:
        The runner; close it, or use it as a context manager.

    Raises:
        GraphError: by kind, see `graphdb.errors`.
    """
    settings = settings or settings_from_environment()
    runner = _managed_runner(settings, on_progress) if settings.managed else external_runner(settings)
    try:
        if apply_schema:
            from matchgraph.graphdb import schema

            schema.apply(runner)
    except BaseException:
        runner.close()
        raise
    return runner


def _managed_runner(settings: Settings, on_progress: Progress | None) -> Runner:
    from matchgraph.graphdb.server.managed import ManagedServer

    return ManagedServer(settings.home).runner(on_progress=on_progress)


def external_runner(settings: Settings) -> Runner:
    """A runner on a Neo4j of the user's own, which has answered.

    Args:
        settings: with an address and a password.

    Returns:
        The runner; nothing was changed or checked beyond the answer.

    Raises:
        ServerUnreachable: no server answers.
        DatabaseNotFound: there is no database of that name.
        AuthenticationFailed: the user or the password is refused.
    """
    assert settings.uri is not None
    assert settings.password is not None
    runner = Runner(settings.uri, settings.user, settings.password, database=settings.database)
    try:
        runner.verify()
    except BaseException:
        runner.close()
        raise
    return runner
