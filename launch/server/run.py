"""Runs the application: on a socket that is bound before anything is loaded, until a signal, or in a thread."""

from __future__ import annotations

import gc
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from palaestra.launch.server.app import App

if TYPE_CHECKING:
    import uvicorn

BACKLOG = 2048
"""Connections that may wait to be accepted: a thousand clients may come at once."""
MOST_FILES = 65536
"""Connections and files that the server may have open, as far as the system allows."""
SPARE_FILES = 64
"""Of those, how many are not for connections: whoever comes when the rest is taken is told so (503)."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket at an address; port 0 stands for any free one.

    Raises:
        OSError: The address is taken or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        hint = "another server may run there; --port 0 takes any free port" if port else "is it this machine's?"
        raise OSError(error.errno, f"cannot listen at {host}:{port}: {error.strerror} ({hint})") from None


def address(bound: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: App, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; then no more is taken, what is in progress is finished, and the signal goes on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))  # shells allow 1024: too few for a crowd
    server = _server(app, ready)
    gc.collect()
    gc.freeze()  # models and modules are not searched for garbage again, which would stop everything now and then
    server.run(sockets=[bound])


def _server(app: App, ready: Callable[[], None]) -> uvicorn.Server:
    import uvicorn

    from palaestra.launch.server.protocol import Protocol

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    return Server(
        uvicorn.Config(
            app,
            http=Protocol,
            proxy_headers=False,
            backlog=BACKLOG,
            log_level="warning",
            access_log=False,
            ws="none",
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
            limit_concurrency=max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES, 1),
            timeout_graceful_shutdown=max(int(app.drain_seconds), 1),
        )
    )


@contextmanager
def background(app: App, port: int = 0, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve in a thread of this process, and give the URL. By default nobody but this machine is served.

    Raises:
        RuntimeError: The server did not start.
    """
    started = threading.Event()
    bound = bind(host, port)
    server = _server(app, started.set)
    thread = threading.Thread(target=server.run, args=([bound],), name="palaestra server", daemon=True)
    thread.start()
    try:
        if not started.wait(20):
            raise RuntimeError(f"the server at {address(bound)} did not start within 20 s.")
        yield address(bound)
    finally:
        server.should_exit = True
        thread.join(app.drain_seconds + 5)
        with suppress(OSError):
            bound.close()
