"""What stands before every route: the API key, the size of bodies, the count."""

import asyncio
import hmac
import ipaddress
import os
import urllib.parse
from collections.abc import Collection

import starlette.datastructures
import starlette.exceptions
import starlette.types

from gptjax.serving.metrics import Metrics
from gptjax.serving.refusals import Refusal

_OPEN = ("/", "/healthz")
"""What needs no key: the page holds no secret, and whoever looks whether the server
lives has none."""
BODY_SECONDS = 30.0
"""Until a request's body is there; who sends it slower holds a connection in vain."""


class Guard:
    """ASGI middleware."""

    def __init__(
        self,
        app: starlette.types.ASGIApp,
        *,
        metrics: Metrics,
        paths: Collection[str],
        api_key: str | None,
        most_bytes: int,
        is_private: bool,
    ):
        """`paths` are counted by name, and all below them, as a model's, as `other`.

        A private server answers only who calls it by what is surely this machine's.
        """
        self._app, self._metrics, self._paths = app, metrics, paths
        self._key = None if api_key is None else os.fsencode(api_key)
        self._most_bytes, self._is_private = most_bytes, is_private

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        status = 500

        async def counted(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        read, is_whole = 0, False
        late = asyncio.get_running_loop().time() + BODY_SECONDS

        async def limited():
            nonlocal read, is_whole
            if is_whole:
                # What comes now is that the client goes, at any time.
                return await receive()
            try:
                async with asyncio.timeout_at(late):
                    message = await receive()
            except TimeoutError as error:
                told = f"no whole body within {BODY_SECONDS:g} seconds"
                raise starlette.exceptions.HTTPException(408, told) from error
            is_whole = not message.get("more_body", False)
            read += len(message.get("body", b""))
            if read > self._most_bytes:
                raise starlette.exceptions.HTTPException(413, self._too_large())
            return message

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal.response()(scope, receive, counted)
            else:
                await self._app(scope, limited, counted)
        finally:
            self._metrics.requests.labels(path, str(status)).inc()

    def _refusal(self, scope) -> Refusal | None:
        headers = starlette.datastructures.Headers(scope=scope)
        host = headers.get("host", "")
        if self._is_private and not _is_own(host):
            # A page elsewhere whose name has been turned to this machine (DNS
            # rebinding) would else be of one origin with the server.
            return Refusal(
                403,
                f"Host {host}: without an API key this server answers at localhost "
                "and at addresses alone",
            )
        if self._key is not None and scope["path"] not in _OPEN:
            given = headers.get("authorization", "")
            scheme, _, key = given.partition(" ")
            is_right = hmac.compare_digest(
                key.strip(" \t").encode("latin-1"), self._key
            )
            if scheme.lower() != "bearer" or not is_right:
                return Refusal(
                    401,
                    "no API key, or a wrong one: Authorization: Bearer KEY",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._most_bytes:
            return Refusal(413, self._too_large())
        return None

    def _too_large(self) -> str:
        return f"the body has more than {self._most_bytes:,} bytes"


def _is_own(host: str) -> bool:
    """Whether a Host header names this machine by no name that others can turn."""
    try:
        name = urllib.parse.urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
