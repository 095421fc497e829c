"""The jars of Neo4j and of Graph Data Science: pinned by a lock file, fetched once, verified before each use.

A lock file for each release of Neo4j names every jar by Maven coordinate, SHA-256 and size. Installing needs
no dependency resolution, only that list. `python -m matchgraph.graphdb.server.artifacts --relock`, for
maintainers, resolves the roots below and writes all lock files.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from matchgraph.certificates import system_certificates
from matchgraph.graphdb.errors import ArtifactMismatch, ArtifactUnavailable, SettingsInvalid
from matchgraph.graphdb.server.releases import PARTS, RELEASES, PinnedJar, Release, chosen_release, read_lock
from matchgraph.progress import Progress

if TYPE_CHECKING:
    from jgo.maven import MavenContext

GDS_GROUP = "org.neo4j.gds"
PARALLEL_DOWNLOADS = 8
DOWNLOAD_TRIES = 3
DOWNLOAD_TIMEOUT_S = 60
LOCK_HEADER = """\
# The jars of the managed Neo4j: part, Maven coordinate (group:artifact:version[:classifier]), SHA-256, bytes.
# Written by `python -m matchgraph.graphdb.server.artifacts --relock`; not edited by hand.
"""


@dataclass(frozen=True)
class Jars:
    """Where the verified jars lie."""

    neo4j: tuple[Path, ...]
    gds: tuple[Path, ...]


def cache_folder() -> Path:
    """Folder of the jars, shared by all data folders: `MATCHGRAPH_CACHE`, else the user's cache folder."""
    configured = os.environ.get("MATCHGRAPH_CACHE")
    if configured:
        return Path(configured).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("matchgraph"))


def provide(
    cache: Path | None = None, pinned: Sequence[PinnedJar] | None = None, on_progress: Progress | None = None
) -> Jars:
    """Make sure that every pinned jar lies in the cache and is what the lock says; fetch what is missing or
    damaged.

    An interrupted fetch keeps the jars it has finished, so that the next call goes on from there.

    Args:
        cache: folder of the jars; None for `cache_folder()`.
        pinned: the jars; None for those of the chosen release.
        on_progress: called with the bytes fetched, from several threads; None for a bar on stderr.

    Returns:
        The paths of the verified jars, in lock order.

    Raises:
        ArtifactUnavailable: a jar could not be fetched or stored.
        ArtifactMismatch: a repository served something else than the lock names.
        SettingsInvalid: the cache folder cannot be written.
    """
    cache = cache or cache_folder()
    pinned = read_lock(chosen_release().lock_file) if pinned is None else pinned
    jars = cache / "jars"
    try:
        jars.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / "lock")
        lock.acquire()
    except OSError as error:
        raise SettingsInvalid(
            f"Cannot write to the cache folder {cache}: {error.strerror or error}. Make it writable or name "
            "another folder in MATCHGRAPH_CACHE."
        ) from error
    try:
        wanted = _missing_or_damaged(pinned, jars)
        if wanted:
            with _reported(wanted, on_progress) as report:
                _fetch_all(wanted, jars, cache, report)
    finally:
        lock.release()
    return Jars(*(tuple(jars / jar.file_name for jar in pinned if jar.part == part) for part in PARTS))


def has_procedures(jar: Path) -> bool:
    """Whether this jar of GDS holds procedures or functions for Cypher, by its name."""
    return bool(re.search(r"[.-]proc-", jar.name))


def link_plugins(gds: Sequence[Path], plugins: Path) -> None:
    """Put the GDS jars with procedures, and only them, into a server's plugins folder: hard links, or copies
    where linking fails.

    Neo4j loads every class in that folder in search of procedures, which is a quarter of a start's time where
    all GDS jars lie there. It finds the others on the class path.

    Args:
        gds: verified jars.
        plugins: the folder; made if it is not there. Other jars in it are removed, since two versions of one
            jar break the server.
    """
    plugins.mkdir(parents=True, exist_ok=True)
    gds = [jar for jar in gds if has_procedures(jar)]
    names = {jar.name for jar in gds}
    for stale in plugins.glob("*.jar"):
        if stale.name not in names:
            stale.unlink()
    for jar in gds:
        target = plugins / jar.name
        if target.exists() and (target.samefile(jar) or _sha256(target) == _sha256(jar)):
            continue
        partial = target.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        try:
            partial.hardlink_to(jar)
        except OSError:
            shutil.copyfile(jar, partial)
        partial.replace(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _missing_or_damaged(pinned: Sequence[PinnedJar], jars: Path) -> list[PinnedJar]:
    def is_sound(jar: PinnedJar) -> bool:
        path = jars / jar.file_name
        return path.is_file() and path.stat().st_size == jar.size_bytes and _sha256(path) == jar.sha256

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [jar for jar, sound in zip(pinned, pool.map(is_sound, pinned), strict=True) if not sound]


@contextmanager
def _reported(wanted: Sequence[PinnedJar], on_progress: Progress | None) -> Iterator[Callable[[int], None]]:
    """A function to call with the bytes of each message that arrives; it reports their sum."""
    step, total = f"Fetching Neo4j ({len(wanted)} jars, once)", sum(jar.size_bytes for jar in wanted)
    if on_progress is not None:
        done = 0

        def add(count: int) -> None:
            nonlocal done
            done += count
            on_progress(step, done, total)

        yield add
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn(step),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


def _fetch_all(wanted: Sequence[PinnedJar], jars: Path, cache: Path, report: Callable[[int], None]) -> None:
    for left_over in cache.glob("fetch-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-", ignore_cleanup_errors=True) as staging:
        context = _maven(Path(staging), report)
        pool = ThreadPoolExecutor(PARALLEL_DOWNLOADS)
        with system_certificates():
            try:
                for done in as_completed([pool.submit(_fetch, jar, jars, context, report) for jar in wanted]):
                    done.result()
            finally:
                pool.shutdown(cancel_futures=True)


def _fetch(jar: PinnedJar, jars: Path, context: MavenContext, report: Callable[[int], None]) -> None:
    import requests

    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact(jar.classifier)
    staged = artifact.cached_path
    failure: Exception | None = None
    for attempt in range(DOWNLOAD_TRIES):
        if attempt:
            time.sleep(attempt)
            # What a failed try has reported is counted again by the next one.
            report(-staged.stat().st_size if staged.exists() else 0)
            staged.unlink(missing_ok=True)
        try:
            artifact.resolve()
        except requests.exceptions.SSLError as error:
            raise ArtifactUnavailable(
                f"Could not fetch {jar.coordinate}: the certificate is not trusted ({_innermost(error)}). If "
                "a proxy of your network replaces certificates, add its certificate to those that the system "
                "trusts, or name its file in SSL_CERT_FILE, and run the command again."
            ) from error
        except requests.RequestException as error:
            failure = ArtifactUnavailable(
                f"Could not fetch {jar.coordinate}: {type(error).__name__}. Check the network (or the "
                "mirror in jgo's settings file) and run the command again; what was fetched so far is kept."
            )
        except RuntimeError:
            failure = ArtifactUnavailable(
                f"No repository has {jar.coordinate}. Check the mirror in jgo's settings file, if you use "
                "one, and run the command again."
            )
        except OSError as error:
            raise ArtifactUnavailable(
                f"Could not store {jar.coordinate} in {jars.parent}: {error.strerror or error}. Make room "
                "or name another folder in MATCHGRAPH_CACHE, and run the command again."
            ) from error
        else:
            got = _sha256(staged)
            if got == jar.sha256:
                staged.replace(jars / jar.file_name)
                return
            failure = ArtifactMismatch(
                f"{jar.coordinate}: expected SHA-256 {jar.sha256}, got {got}. The repository served another "
                "file than the one this version was tested with; it was not kept. Try again, or use another "
                "mirror."
            )
    assert failure is not None
    raise failure


def _innermost(error: BaseException) -> str:
    """The words of the error that others were raised for."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return str(error)


def _maven(repository: Path, report: Callable[[int], None] | None = None) -> MavenContext:
    """jgo's own repositories (a mirror of the user's settings first), writing only below `repository`."""
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext, PythonResolver

    @contextmanager
    def reporting(file_name: str, size: int) -> Iterator[Any]:  # noqa: ARG001
        yield report

    resolver = PythonResolver(progress_callback=reporting if report else None)
    context = MavenContext(resolver=resolver, repo_cache=repository, timeout=DOWNLOAD_TIMEOUT_S)
    context.remote_repos = {**GlobalSettings.load().repositories, **context.remote_repos}
    return context


def resolve_roots(release: Release, repository: Path) -> tuple[PinnedJar, ...]:
    """Resolve the roots of a release with jgo, fetch every jar and pin it.

    Of the tree of GDS, third-party jars that Neo4j brings itself are left out: two versions of one class on
    the class path break the server. Neo4j and GDS are resolved apart, or one would move the other's versions.

    Args:
        release: the release.
        repository: folder for the poms and jars.

    Returns:
        The pinned jars, sorted by part and coordinate.
    """
    context = _maven(repository)

    def resolve(roots: Sequence[str]) -> list[Any]:
        inputs, transitive = context.resolver.resolve([context.create_dependency(root) for root in roots])
        used = [*inputs, *(d for d in transitive if d.scope in ("compile", "runtime"))]
        # A list of versions is resolved like a jar, and is none.
        return [each.artifact for each in used if each.artifact.packaging == "jar"]

    neo4j = [artifact for root in release.neo4j for artifact in resolve([root])]
    provided = {(artifact.groupId, artifact.artifactId) for artifact in neo4j}
    gds = [
        a for a in resolve(release.gds) if a.groupId == GDS_GROUP or (a.groupId, a.artifactId) not in provided
    ]

    def pin(part: str, artifact: Any) -> PinnedJar:
        path = artifact.resolve()
        identity = (artifact.groupId, artifact.artifactId, artifact.version, artifact.classifier)
        return PinnedJar(part, *identity, _sha256(path), path.stat().st_size)

    with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
        pinned = [
            *pool.map(lambda artifact: pin("neo4j", artifact), neo4j),
            *pool.map(lambda artifact: pin("gds", artifact), gds),
        ]
    return tuple(sorted(set(pinned), key=lambda jar: (PARTS.index(jar.part), jar.coordinate)))


def lock_text(pinned: Sequence[PinnedJar]) -> str:
    """The text of a lock file; `read_lock` gives the jars back."""
    lines = (f"{jar.part} {jar.coordinate} {jar.sha256} {jar.size_bytes}\n" for jar in pinned)
    return LOCK_HEADER + "".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Maintainer's entry: `--relock` rewrites the lock files, no argument checks the cache against it."""
    if list(arguments) not in ([], ["--relock"]):
        print("usage: python -m matchgraph.graphdb.server.artifacts [--relock]", file=sys.stderr)
        return 2
    for release in RELEASES if arguments else ():
        with tempfile.TemporaryDirectory() as repository:
            pinned = resolve_roots(release, Path(repository))
        release.lock_file.write_text(lock_text(pinned), encoding="utf-8")
        print(
            f"{release.lock_file.name}: {len(pinned)} jars, {sum(jar.size_bytes for jar in pinned)} bytes",
            file=sys.stderr,
        )
    jars = provide()
    print(f"{len(jars.neo4j)} + {len(jars.gds)} jars in {cache_folder()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
