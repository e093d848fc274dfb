"""The server's process: its socket, its signals, its end."""

import contextlib
import signal
import socket
from collections.abc import Callable

import fastapi
import uvicorn

from gptjax import errors


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0: any that is free.

    Raises:
      UserError: it is in use, or none of this machine's.
    """
    try:
        (family, *_, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with contextlib.ExitStack() as stack:
            made = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            # Else a server that has just ended would keep its port for a minute.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            # Only who listens has the port for himself; early clients wait.
            made.listen()
            stack.pop_all()
            return made
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise errors.UserError(
            f"{host}:{port}: cannot listen there: {reason}"
        ) from error


def url(listening: socket.socket) -> str:
    """Where a socket is reached."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(
    app: fastapi.FastAPI,
    listening: socket.socket,
    *,
    grace_seconds: float,
    when_ready: Callable[[], None],
) -> None:
    """Serves until SIGTERM or Ctrl-C, then lets what runs end.

    Args:
      grace_seconds: how long that may take; the rest is broken off.
    """
    server = Server(app, grace_seconds=grace_seconds, when_ready=when_ready)
    # uvicorn raises the signal again when all has ended well; to end so is no failure.
    before = {
        each: signal.signal(each, lambda *_: None)
        for each in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        server.run(sockets=[listening])
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class Server(uvicorn.Server):
    """uvicorn's, set up as `run` wants it, that says when it is ready."""

    def __init__(
        self,
        app: fastapi.FastAPI,
        *,
        grace_seconds: float,
        when_ready: Callable[[], None],
    ):
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=grace_seconds,
        )
        super().__init__(config)
        self._when_ready = when_ready

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets=sockets)
        self._when_ready()
