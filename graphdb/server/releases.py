"""The releases of Neo4j that can be managed, and the jars that each is pinned to by its lock file."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from matchgraph.graphdb.errors import ArtifactMismatch, SettingsInvalid

VERSION_VARIABLE = "MATCHGRAPH_NEO4J_VERSION"
BROWSER = "org.neo4j.client:neo4j-browser:5.24.0"
PARTS = ("neo4j", "gds")


@dataclass(frozen=True)
class Release:
    """A release of Neo4j that a managed server can run, with the GDS that is made for it.

    Attributes:
        name: how users choose it.
        main_class: what starts a server.
        neo4j: Maven coordinates that its jars are resolved from.
        gds: those of Graph Data Science.
    """

    name: str
    main_class: str
    neo4j: tuple[str, ...]
    gds: tuple[str, ...]

    @property
    def lock_file(self) -> Path:
        """The jars of the release."""
        return Path(__file__).with_name(f"neo4j-{self.name}.lock")


# The first is the default. Of the calendar releases, the newest whose GDS is on Maven Central.
RELEASES = (
    Release(
        "5.26",
        "org.neo4j.server.CommunityEntryPoint",
        ("org.neo4j:neo4j:5.26.30", BROWSER),
        (
            "org.neo4j.gds:proc:2.13.9",
            "org.neo4j.gds:opengds-extension:2.13.9",
            "org.neo4j.gds:open-write-services:2.13.9",
        ),
    ),
    Release(
        "2026.01",
        "org.neo4j.server.Neo4jCommunity",
        ("org.neo4j:neo4j:2026.01.4", BROWSER),
        ("org.neo4j.gds:proc:2.26.0", "org.neo4j.gds:opengds-extension:2.26.0"),
    ),
)


@dataclass(frozen=True)
class PinnedJar:
    """One line of the lock file."""

    part: str
    group: str
    artifact: str
    version: str
    classifier: str
    sha256: str
    size_bytes: int

    @property
    def coordinate(self) -> str:
        """Maven coordinate, group:artifact:version[:classifier]."""
        return ":".join(filter(None, (self.group, self.artifact, self.version, self.classifier)))

    @property
    def file_name(self) -> str:
        """Name in the cache; with the group, since Neo4j and GDS both have an `annotations` jar."""
        classifier = f"-{self.classifier}" if self.classifier else ""
        return f"{self.group}.{self.artifact}-{self.version}{classifier}.jar"


def release_named(name: str) -> Release | None:
    """The release of that name, if there is one."""
    return next((release for release in RELEASES if release.name == name), None)


def chosen_release() -> Release:
    """The release that `MATCHGRAPH_NEO4J_VERSION` names, else the default.

    Raises:
        SettingsInvalid: there is no such release.
    """
    name = os.environ.get(VERSION_VARIABLE)
    if not name:
        return RELEASES[0]
    release = release_named(name)
    if release is None:
        names = ", ".join(known.name for known in RELEASES)
        raise SettingsInvalid(f"{VERSION_VARIABLE} is {name!r}, but the managed Neo4j is one of {names}.")
    return release


def read_lock(path: Path = RELEASES[0].lock_file) -> tuple[PinnedJar, ...]:
    """Read a lock file.

    Args:
        path: the lock file.

    Returns:
        Its jars, in file order.

    Raises:
        ArtifactMismatch: a line does not have the lock file's form.
    """
    pinned = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            part, coordinate, sha256, size = line.split()
            group, artifact, version, classifier = (*coordinate.split(":"), "")[:4]
            jar = PinnedJar(part, group, artifact, version, classifier, sha256, int(size))
        except ValueError:
            jar = None
        if jar is None or jar.part not in PARTS or len(jar.sha256) != hashlib.sha256().digest_size * 2:
            raise ArtifactMismatch(
                f"{path.name}, line {number}: not `part coordinate sha256 bytes`: {line!r}"
            )
        pinned.append(jar)
    return tuple(pinned)
