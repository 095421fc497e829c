"""Runs the service: fitted routers, with their validation prompts read once, behind a web server."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from matchgraph.routing.encoders import load_encoder, validation_prompts
from matchgraph.routing.errors import AddressUnusable, NotFitted

if TYPE_CHECKING:
    import uvicorn

    from matchgraph.graphdb.prompts import PromptGraph
    from matchgraph.routing.service import Served
    from matchgraph.routing.store import RouterStore

# As ASGI defines it.
Application: TypeAlias = Callable[..., Awaitable[None]]
# Longer than clients keep idle connections (httpx 5 s, common proxies 60 s): whichever side closes first
# has to be the client's, or a request sent at that moment is lost.
KEEP_ALIVE_S = 75


def web_server(app: Application, host: str = "127.0.0.1", port: int = 0) -> uvicorn.Server:
    """A server of an application, to run.

    Args:
        app: see `routing.service.create_app`.
        host: the address to listen on.
        port: its port; 0 takes a free one.
    """
    import uvicorn

    config = uvicorn.Config(app, host=host, port=port, access_log=False, timeout_keep_alive=KEEP_ALIVE_S)
    return uvicorn.Server(config)


def listening(host: str, port: int) -> socket.socket:
    """Open the socket of the service, before anything is loaded for it; the server listens once it runs.

    Args:
        host: name or address to listen on.
        port: its port; 0 takes a free one.

    Returns:
        The bound socket, to be given to the server's `run`.

    Raises:
        AddressUnusable: the port is taken or reserved, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise AddressUnusable(f"Cannot listen on {host}: {error.strerror}. Change --host.") from None
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            reason = f"port {port} of {host} is used by another process. Choose another one with --port"
        elif error.errno in (errno.EACCES, errno.EPERM):
            reason = f"port {port} is reserved for administrators. Choose one from 1024 with --port"
        else:
            reason = f"{host} port {port}: {error.strerror}. Change --host or --port"
        raise AddressUnusable(f"Cannot listen: {reason}.") from None
    return opened


def load_served(
    store: RouterStore, graph: PromptGraph, probe: str, metrics: Sequence[str] = ()
) -> dict[str, Served]:
    """Load routers to serve.

    Args:
        store: the fitted ones.
        graph: the prompts; asked at every decision of a nearest-neighbour router.
        probe: what reads prompts, see `routing.encoders.load_encoder`.
        metrics: which; all that are fitted by default.

    Raises:
        NotFitted: a metric has no router, or none has.
        NoPrompts: there are no validation prompts.
    """
    from matchgraph.routing.service import Served

    wanted = list(metrics) or store.metrics()
    if not wanted:
        raise NotFitted("No router is fitted: run `matchgraph route fit`.")
    encoder = load_encoder(probe, graph)
    served = {}
    for metric in wanted:
        fitted = store.load(metric)
        exact = store.router(fitted, graph, encoder, exact=True)
        validation = exact.compared(validation_prompts(graph, fitted.kind, encoder))
        served[metric] = Served(store.router(fitted, graph, encoder), validation)
    return served
