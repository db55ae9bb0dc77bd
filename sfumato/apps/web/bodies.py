"""Bodies of requests, counted while they come in."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from sfumato.json_input import JsonError, read_json

SECONDS = 30.0
"""That a body may take."""
JSON_BYTES = 64 * 1024
_CLOSE = {"connection": "close"}  # or the rest of the body would be read, and thrown away


async def read_body(request: Request, most: int, seconds: float = SECONDS) -> bytes:
    """The body, refused as soon as it is larger than `most` bytes, whatever its header says.

    Raises:
        HTTPException: 413, it is larger; 408, it takes too long; 400, its header is wrong, or the client went.
    """
    length = request.headers.get("content-length", "0")
    if not length.isdigit():
        raise HTTPException(400, "the length is no number")
    if int(length) > most:
        raise _too_large(most)
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise _too_large(most)
                parts.append(part)
    except TimeoutError:
        raise HTTPException(408, "the upload takes too long", _CLOSE) from None
    except ClientDisconnect:
        raise HTTPException(400, "the client went") from None
    return b"".join(parts)


async def read_object(request: Request) -> dict[str, Any]:
    """The body as one object of JSON, of at most 64 kB.

    Raises:
        HTTPException: As `read_body`; 415, it is said to be something else; 400, it is none.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send JSON")
    try:
        value = read_json(await read_body(request, JSON_BYTES))
    except JsonError as error:
        raise HTTPException(400, f"this is no JSON that can be read: {error}") from None
    if not isinstance(value, dict):
        raise HTTPException(400, "send one object of JSON")
    return value


def _too_large(most: int) -> HTTPException:
    size = f"{most / 2**20:.0f} MB" if most >= 2**20 else f"{most / 2**10:.0f} kB"
    return HTTPException(413, f"this is larger than {size}: send less", _CLOSE)
