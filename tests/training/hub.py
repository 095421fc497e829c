"""A stand-in for the Hugging Face hub: its cache in a folder, and a server of this machine with its API."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from matchgraph.training.files import files_below

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def use_cache(patch: pytest.MonkeyPatch, cache: Path, endpoint: str = "http://127.0.0.1:9") -> None:
    """Let the hub's client look into a folder, and for a hub where by default nothing answers."""
    from huggingface_hub import constants, hf_api

    # Of the client that its module-level functions share, which keeps the address that it was made with.
    patch.setattr(hf_api.api, "endpoint", endpoint)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )


def put_into_cache(cache: Path, name: str, source: Path, kind: str = "models") -> Path:
    """Put a folder's files into a cache as the hub's client does: blobs, and links to them in a snapshot.

    Returns:
        The snapshot.
    """
    repository = cache / f"{kind}--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    (repository / "blobs").mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for file in files_below(source):
        content = file.read_bytes()
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link = snapshot / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return snapshot


@contextmanager
def served(repositories: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Serve folders under repositories' names.

    Yields:
        The server's address, and the paths of the files that were fetched from it, which grows.
    """
    fetched: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            for name, folder in repositories.items():
                if path.startswith(f"api/models/{name}"):
                    return self._listing(path.removeprefix(f"api/models/{name}"), folder)
                if path.startswith(f"{name}/resolve/"):
                    file = path.split("/", 4)[4]
                    if body:
                        fetched.append(file)
                    if (folder / file).is_file():
                        return self._send((folder / file).read_bytes(), body, "application/octet-stream")
            return self._send(b"", body, "text/plain", 200 if path == "" else 404)

        def _listing(self, rest: str, folder: Path) -> None:
            names = [path.relative_to(folder).as_posix() for path in files_below(folder)]
            if rest.startswith("/tree"):
                answer: object = [
                    {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": name}
                    for name in names
                ]
            else:
                answer = {"id": "x", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            self._send(json.dumps(answer).encode(), True, "application/json")

        def _send(self, content: bytes, body: bool, kind: str, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
