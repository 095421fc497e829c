"""`matchgraph ui`: the page."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import webbrowser
from contextlib import suppress
from importlib.util import find_spec

import click

from matchgraph.cli.graph import has_display
from matchgraph.cli.options import listening_options, opened_graph, probe_option

TOKEN_VARIABLE = "MATCHGRAPH_UI_TOKEN"
# It stands in an address and in a cookie.
TOKEN = re.compile(r"[A-Za-z0-9_-]{16,}")
WILDCARDS = ("0.0.0.0", "::")


@click.command()
@probe_option(note="Without it, only datasets of the graph can be asked about.")
@listening_options(port=8090)
@click.option(
    "--read-only",
    is_flag=True,
    help="Do not queue, cancel, retry or carry out runs, nor draw; images can still be dropped.",
)
@click.option("--no-token", is_flag=True, help="Let in anyone who reaches the address; on this machine only.")
@click.option("--launch/--no-launch", default=True, help="Open a web browser, if there is one.")
def ui(probe: str | None, host: str, port: int, read_only: bool, no_token: bool, launch: bool) -> None:
    """Show the graph, its answers and its runs on a page in a web browser.

    By default it can be reached from this machine alone, by the address that is printed: it holds a token,
    which is random unless MATCHGRAPH_UI_TOKEN sets it. Fine-tuning runs are queued, and carried out in
    processes of their own.
    """
    from matchgraph.graphdb.connection import settings_from_environment
    from matchgraph.routing.serving import listening, web_server
    from matchgraph.ui.app import create_app
    from matchgraph.ui.desk import Desk
    from matchgraph.ui.guard import Guard, is_loopback
    from matchgraph.ui.uploads import remove_abandoned
    from matchgraph.ui.work import Work

    token = None if no_token else os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(24)
    local = is_loopback(host)
    if token is None and not local:
        raise click.UsageError(f"{host} can be reached by other machines: leave --no-token out.")
    if token is not None and not TOKEN.fullmatch(token):
        raise click.UsageError(
            f"{TOKEN_VARIABLE} needs 16 or more characters, each one of A-Z, a-z, 0-9, hyphen and underscore."
        )
    if find_spec("nicegui") is None:
        raise click.UsageError("nicegui is not installed: pip install 'matchgraph[ui]'.")
    with listening(host, port) as address, opened_graph() as (_, runner):
        number = address.getsockname()[1]
        settings = settings_from_environment()
        remove_abandoned(settings.home)
        desk = Desk(runner, settings, probe, read_only, names_folders=local and not read_only)
        work = Work(desk)
        server = web_server(Guard(create_app(desk, work), token, host=host, port=number), host, number)
        address.listen()
        # A wildcard is no address to open.
        name = socket.gethostname() if host in WILDCARDS else host
        shown = f"[{name}]" if ":" in name else name
        url = f"http://{shown}:{number}/" + ("" if token is None else f"?token={token}")
        click.echo(f"Open {url} (Ctrl-C to stop)", err=True)
        if not local:
            click.echo(
                "Other machines can reach it by this name and by this machine's addresses, and what is sent "
                "can be read on the way: prefer an SSH tunnel.",
                err=True,
            )
        if launch and has_display():
            webbrowser.open(url)
        # The server raises the signal that stopped it once more, so both end it in the same way.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with suppress(KeyboardInterrupt):
                server.run(sockets=[address])
        finally:
            work.end()
            desk.close()
