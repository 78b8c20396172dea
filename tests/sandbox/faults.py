"""Answers that should not be, for ``Sandbox.fail``."""

from __future__ import annotations

import gzip
import socket
import struct
from typing import TYPE_CHECKING, Any

from flask import Response, request

from tests.sandbox.server import error, json_response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.sandbox.server import Sandbox


def refused(status: int, message: str, **headers: str) -> Callable[[], Response]:
    """Answer with the API's envelope of an error."""

    def answer() -> Response:
        response = error(status, message)
        response.headers.update({k.replace("_", "-"): v for k, v in headers.items()})
        return response

    return answer


def too_many(
    retry_after: str | None = None, *, in_body: float | None = None
) -> Callable[[], Response]:
    """Answer 429, with the seconds in the header, in the body or nowhere."""

    def answer() -> Response:
        more = {} if in_body is None else {"retry_after": in_body}
        response = error(429, "Too Many Attempts.", **more)
        if retry_after is not None:
            response.headers["Retry-After"] = retry_after
        return response

    return answer


def html(status: int, text: str = "", **headers: str) -> Callable[[], Response]:
    """Answer with a page of a proxy or a login form."""
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return lambda: Response(
        f"<!DOCTYPE html><html><body>Not what you asked for {text}</body></html>",
        status,
        headers=named,
        content_type="text/html",
    )


def body(text: str | bytes) -> Callable[[], Response]:
    """Answer 200 with this body."""
    return lambda: Response(text, content_type="application/json")


def page(
    sandbox: Sandbox, change: Callable[[dict[str, Any]], object]
) -> Callable[[], Response]:
    """Answer with the ordinary page after a change to it."""

    def answer() -> Response:
        ordinary = sandbox.page()
        change(ordinary)
        return json_response(ordinary)

    return answer


def cut_off(sandbox: Sandbox) -> Callable[[], Response]:
    """Send half of a page, and then close the connection."""

    def answer() -> Response:
        whole = json_response(sandbox.page()).get_data()

        def half() -> Iterator[bytes]:
            yield whole[: len(whole) // 2]
            raise ConnectionAbortedError

        length = {"Content-Length": str(len(whole))}
        return Response(half(), headers=length, content_type="application/json")

    return answer


def half(sandbox: Sandbox) -> Callable[[], Response]:
    """Send half of a page as if it were all."""

    def answer() -> Response:
        whole = json_response(sandbox.page()).get_data()
        return Response(whole[: len(whole) // 2], content_type="application/json")

    return answer


def damaged_gzip(sandbox: Sandbox) -> Callable[[], Response]:
    """Send a page whose compression broke on the way."""

    def answer() -> Response:
        whole = bytearray(gzip.compress(json_response(sandbox.page()).get_data()))
        whole[10] = 0b111  # a block of a type that does not exist
        return Response(
            bytes(whole),
            headers={"Content-Encoding": "gzip"},
            content_type="application/json",
        )

    return answer


def reset() -> Response:
    """Break the connection without an answer."""
    connection: socket.socket = request.environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionResetError


def trickle(sandbox: Sandbox) -> Callable[[], Response]:
    """Send a page, one byte a second."""

    def answer() -> Response:
        whole = json_response(sandbox.page()).get_data()

        def bytewise() -> Iterator[bytes]:
            for at in range(len(whole)):
                yield whole[at : at + 1]
                if sandbox.stopped.wait(1):
                    raise ConnectionAbortedError

        length = {"Content-Length": str(len(whole))}
        return Response(bytewise(), headers=length, content_type="application/json")

    return answer


def endless(sandbox: Sandbox) -> Callable[[], Response]:
    """Send the beginning of a page, and then customers without end."""

    def answer() -> Response:
        row = json_response(sandbox.page()["data"][0]).get_data()

        def rows() -> Iterator[bytes]:
            yield b'{"success": true, "data": ['
            while not sandbox.stopped.is_set():
                yield (row + b",") * 100

        return Response(rows(), content_type="application/json")

    return answer


def silence(sandbox: Sandbox) -> Callable[[], Response]:
    """Take the request and answer nothing until the sandbox stops."""

    def answer() -> Response:
        sandbox.stopped.wait()
        raise ConnectionAbortedError

    return answer
