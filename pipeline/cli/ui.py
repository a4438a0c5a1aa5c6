"""Ui: a web page of jobs, workers, schedules, datasets and generators.

Imports inside the functions keep numpy, redis and the web server out of `--help`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from typing import Any

import click

from pipeline.cli.options import Whole, examples, redis_option
from pipeline.cli.output import warn
from pipeline.common.errors import NoisemillError, UsageError
from pipeline.common.settings import load_settings, names_redis

#: Where the token may come from, besides --token, which other users see in the list of processes.
_TOKEN_VARIABLE = "NOISEMILL_UI_TOKEN"  # noqa: S105 - the name of a variable


@click.command(
    "ui",
    epilog=examples("noisemill ui", "noisemill ui out s3://bucket/clothes", "noisemill ui --allow-control --port 9000"),
)
@click.argument("destinations", nargs=-1, metavar="[DEST]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=Whole(0, 65535), default=8765, show_default=True, help="Port; 0 takes a free one.")
@click.option("--token", metavar="TEXT", help=f"Ask for this token; better set {_TOKEN_VARIABLE}.")
@click.option("--allow-control", is_flag=True, help="Let the page cancel jobs, and pause and run schedules.")
@redis_option
def ui_command(
    destinations: tuple[str, ...],
    host: str,
    port: int,
    token: str | None,
    allow_control: bool,
    redis_url: str | None,
) -> None:
    """Show jobs, workers, schedules and datasets on a web page.

    It shows the datasets of jobs in Redis, and those at DEST, which need no Redis. A generator's playground makes
    single samples. Ctrl-C ends it.

    On this machine alone (--host 127.0.0.1) it asks for no token unless one is given; elsewhere it makes one.
    """
    try:
        import uvicorn

        from pipeline.ui.app import create_app
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise NoisemillError(f"'noisemill ui' takes {error.name}: pip install 'noisemill[ui]'") from None
    from pipeline.datasets.dataset import Dataset
    from pipeline.ui.guard import LEAST_TOKEN, is_loopback, new_token
    from pipeline.ui.library import Library

    local_only = is_loopback(host)
    token = token or os.environ.get(_TOKEN_VARIABLE) or (None if local_only else new_token())
    if token is not None and (len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable()):
        raise UsageError(f"the token must have at least {LEAST_TOKEN} characters of ASCII")
    library = Library(destinations)
    for url in library.given.values():
        Dataset(url)  # Raises an error that names the mistake.
    app = create_app(
        load_settings(redis_url=redis_url),
        library,
        token=token,
        local_only=local_only,
        allow_control=allow_control,
        # Whoever names datasets alone may have no Redis at all.
        redis_expected=not destinations or names_redis(redis_url),
    )
    with _listen(host, port) as listener:
        if not local_only:
            warn("the page is served without encryption: put a proxy with TLS before it where others listen")
        click.echo(f"noisemill ui: {_address(host, listener, token)}")
        sys.stdout.flush()
        # Its log has no line per request, which would hold the token.
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, ws="none", timeout_graceful_shutdown=2
        )
        _serve(uvicorn.Server(config), listener)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises UsageError if it cannot."""
    name = host.strip("[]")
    try:
        listener = socket.create_server((name, port), family=socket.AF_INET6 if ":" in name else socket.AF_INET)
    except OSError as error:
        raise UsageError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    # For its connections too: Nagle's algorithm would delay each response by 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _address(host: str, listener: socket.socket, token: str | None) -> str:
    name = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"http://{name}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")


def _serve(server: Any, listener: socket.socket) -> None:
    """Serves until Ctrl-C or SIGTERM, both of which end it with exit code 0."""
    # Also called after the server has ended: it sends the signal that ended it again.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
