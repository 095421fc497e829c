"""Fetching pinned jars, through jgo, from a Maven repository on loopback that can misbehave."""

from __future__ import annotations

import hashlib
import re
import shutil
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zipfile import ZipFile

import pytest

from matchgraph.graphdb.errors import ArtifactMismatch, ArtifactUnavailable, SettingsInvalid
from matchgraph.graphdb.server import artifacts, releases
from matchgraph.graphdb.server.artifacts import link_plugins, lock_text, provide
from matchgraph.graphdb.server.releases import PinnedJar, read_lock


class MavenRepository:
    """A Maven repository on loopback.

    `files` are what it serves by path, `requests` counts what was asked for, and `damaged` says how often
    each path is still to be answered with a part of the file.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()
        self.damaged: Counter[str] = Counter()
        repository = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                repository.requests[self.path] += 1
                content = repository.files.get(self.path)
                if content is None:
                    self.send_error(503)
                    return
                if repository.damaged[self.path] > 0:
                    repository.damaged[self.path] -= 1
                    content = content[: len(content) // 2]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def publish(self, artifact: str, content: bytes, part: str = "neo4j") -> PinnedJar:
        jar = PinnedJar(
            part, "org.example", artifact, "1.0", "", hashlib.sha256(content).hexdigest(), len(content)
        )
        self.files[self.path(jar)] = content
        return jar

    @staticmethod
    def path(jar: PinnedJar) -> str:
        return f"/org/example/{jar.artifact}/1.0/{jar.artifact}-1.0.jar"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MavenRepository]:
    maven = MavenRepository()
    settings = tmp_path / "jgo.conf"
    settings.write_text(f"[repositories]\nmirror = http://127.0.0.1:{maven.server.server_port}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(settings))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(artifacts.time, "sleep", lambda _: None)
    yield maven
    maven.server.shutdown()
    maven.server.server_close()


def test_fetches_once_into_the_cache_and_nowhere_else(
    repository: MavenRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home = tmp_path / "empty-home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    pinned = [repository.publish("one", b"1" * 5000), repository.publish("two", b"2" * 700, part="gds")]
    reports: list[tuple[int, int]] = []
    jars = provide(tmp_path / "cache", pinned, on_progress=lambda _, *bytes_: reports.append(bytes_))
    assert jars.neo4j[0].read_bytes() == b"1" * 5000
    assert jars.gds[0].read_bytes() == b"2" * 700
    assert reports[-1] == (5700, 5700)
    assert provide(tmp_path / "cache", pinned) == jars
    assert repository.requests[repository.path(pinned[0])] == 1
    assert list(home.iterdir()) == []
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["jars", "lock"]


@pytest.mark.parametrize("damage", [b"", b"1" * 4999, b"x" * 5000], ids=["empty", "truncated", "changed"])
def test_a_damaged_jar_in_the_cache_is_fetched_again(
    repository: MavenRepository, tmp_path: Path, damage: bytes
):
    pinned = [repository.publish("one", b"1" * 5000), repository.publish("two", b"2" * 700)]
    first, second = provide(tmp_path, pinned).neo4j
    first.write_bytes(damage)
    provide(tmp_path, pinned)
    assert first.read_bytes() == b"1" * 5000
    assert second.read_bytes() == b"2" * 700
    assert repository.requests[repository.path(pinned[1])] == 1


def test_a_damaged_download_is_tried_again(repository: MavenRepository, tmp_path: Path):
    jar = repository.publish("one", b"1" * 5000)
    repository.damaged[repository.path(jar)] = 2
    assert provide(tmp_path, [jar]).neo4j[0].read_bytes() == b"1" * 5000


def test_another_file_than_the_locked_one_is_refused_and_not_kept(
    repository: MavenRepository, tmp_path: Path
):
    jar = repository.publish("one", b"1" * 5000)
    repository.files[repository.path(jar)] = b"?" * 5000
    with pytest.raises(ArtifactMismatch, match=r"org\.example:one:1\.0: expected SHA-256") as caught:
        provide(tmp_path, [jar])
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "jars").iterdir()) == []


def test_a_failed_fetch_keeps_what_it_has_and_the_next_goes_on(repository: MavenRepository, tmp_path: Path):
    pinned = [repository.publish(name, name.encode() * 100) for name in ("one", "two")]
    repository.files[repository.path(pinned[1])] = b"wrong"
    with pytest.raises(ArtifactMismatch):
        provide(tmp_path, pinned)
    repository.files[repository.path(pinned[1])] = b"two" * 100
    (tmp_path / "fetch-killed").mkdir()
    jars = provide(tmp_path, pinned)
    assert [path.read_bytes() for path in jars.neo4j] == [b"one" * 100, b"two" * 100]
    assert repository.requests[repository.path(pinned[0])] == 1
    assert not (tmp_path / "fetch-killed").exists()


def test_no_network_is_one_clear_line(repository: MavenRepository, tmp_path: Path):
    jar = repository.publish("one", b"1")
    repository.server.shutdown()
    repository.server.server_close()
    with pytest.raises(
        ArtifactUnavailable, match=r"org\.example:one:1\.0: ConnectionError\. Check the network"
    ):
        provide(tmp_path, [jar])


def test_a_cache_that_cannot_be_made_is_one_clear_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsInvalid, match="MATCHGRAPH_CACHE"):
        provide(tmp_path / "file" / "cache", [])


def test_cache_folder_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MATCHGRAPH_CACHE", str(tmp_path))
    assert artifacts.cache_folder() == tmp_path
    monkeypatch.delenv("MATCHGRAPH_CACHE")
    assert artifacts.cache_folder().name == "matchgraph"


def test_plugins_are_links_and_only_ours(tmp_path: Path):
    jar, other = tmp_path / "gds.proc-1.jar", tmp_path / "gds.core-1.jar"
    jar.write_bytes(b"new")
    other.write_bytes(b"on the class path")
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "gds.proc-0.jar").write_bytes(b"old")
    link_plugins([jar, other], plugins)
    assert [path.name for path in plugins.iterdir()] == [jar.name]
    assert (plugins / jar.name).samefile(jar)


def test_no_procedure_lies_outside_the_jars_that_are_linked():
    holds = {
        jar: any(re.search(r"(Proc|Func)\.class$", name) for name in ZipFile(jar).namelist())
        for jar in provide().gds
    }
    assert sum(holds.values()) >= 12
    assert [jar.name for jar, does in holds.items() if does and not artifacts.has_procedures(jar)] == []


def test_plugins_are_copied_where_linking_fails_and_repaired_when_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    jar = tmp_path / "gds.proc-1.jar"
    jar.write_bytes(b"whole")
    link_plugins([jar], tmp_path / "plugins")
    copy = tmp_path / "plugins" / jar.name
    assert copy.read_bytes() == b"whole"
    copy.write_bytes(b"who")
    link_plugins([jar], tmp_path / "plugins")
    assert copy.read_bytes() == b"whole"


@pytest.mark.parametrize("release", releases.RELEASES, ids=lambda release: release.name)
def test_the_committed_locks_are_complete_and_name_no_host(release: releases.Release):
    pinned = read_lock(release.lock_file)
    coordinates = {jar.coordinate for jar in pinned}
    assert coordinates.issuperset((*release.neo4j, *release.gds))
    assert len({jar.file_name for jar in pinned}) == len(pinned)
    assert len({(jar.part, jar.group, jar.artifact, jar.classifier) for jar in pinned}) == len(pinned)
    text = release.lock_file.read_text()
    assert "//" not in text
    assert lock_text(pinned) == text


def test_the_release_is_chosen_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(releases.VERSION_VARIABLE, raising=False)
    assert releases.chosen_release().name == "5.26"
    monkeypatch.setenv(releases.VERSION_VARIABLE, "2026.01")
    assert releases.chosen_release() == releases.release_named("2026.01")
    monkeypatch.setenv(releases.VERSION_VARIABLE, "4.4")
    with pytest.raises(SettingsInvalid, match=r"is '4.4', but the managed Neo4j is one of 5.26, 2026.01"):
        releases.chosen_release()


@pytest.mark.parametrize(
    "line", ["neo4j a:b:1 abc 5", "other a:b:1 " + "0" * 64 + " 5", "neo4j a:b:1 " + "0" * 64]
)
def test_a_malformed_lock_line_is_named(line: str, tmp_path: Path):
    lock = tmp_path / "artifacts.lock"
    lock.write_text(f"# comment\n\n{line}\n")
    with pytest.raises(ArtifactMismatch, match="line 3"):
        read_lock(lock)


@pytest.fixture
def proxy(repository: MavenRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository behind a certificate that Python's own list lacks; returns the file of its issuer."""
    certificate, key = tmp_path / "proxy.pem", tmp_path / "proxy.key"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-out", certificate, "-keyout", key]
    subprocess.run([*map(str, made), *subject], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    repository.server.socket = context.wrap_socket(repository.server.socket, server_side=True)
    settings = tmp_path / "jgo.conf"
    settings.write_text(settings.read_text().replace("http://", "https://"))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    return certificate


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_what_the_system_trusts_is_trusted_and_nothing_else(
    repository: MavenRepository, proxy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    jar = repository.publish("one", b"1")
    with pytest.raises(
        ArtifactUnavailable, match=r"not trusted \(.*CERTIFICATE_VERIFY_FAILED.*SSL_CERT_FILE"
    ):
        provide(tmp_path / "cache", [jar])
    monkeypatch.setenv("SSL_CERT_FILE", str(proxy))
    assert provide(tmp_path / "cache", [jar]).neo4j[0].read_bytes() == b"1"
