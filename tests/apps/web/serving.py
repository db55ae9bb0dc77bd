"""A real server on this computer, and a client that can say anything to it."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from PIL import Image

from sfumato.apps.serve import _uvicorn
from sfumato.apps.web.forms import Limits
from sfumato.apps.web.server import Server, create_app
from sfumato.images import png_bytes
from sfumato.run.job_queue import Bounds, JobQueue


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def image(self) -> Image.Image:
        return Image.open(io.BytesIO(self.body))


@dataclass(frozen=True)
class Client:
    port: int
    server: Server

    def ask(self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, **headers: str | None) -> Reply:
        """A request as it is: `Host` and all can be set, with _ for -; None leaves a header out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True)
            named = {"host": f"127.0.0.1:{self.port}"} | {k.replace("_", "-"): v for k, v in headers.items()}
            if isinstance(body, bytes):
                named = {"content-length": str(len(body))} | named
            elif body is not None:
                named["transfer-encoding"] = "chunked"
            for name, value in named.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(body, encode_chunked=body is not None and not isinstance(body, bytes))
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str | None) -> Reply:
        return self.ask("GET", path, **headers)

    def post(self, path: str, value: Any, **headers: str | None) -> Reply:
        return self.ask("POST", path, json.dumps(value).encode(), content_type="application/json", **headers)

    def send(self, image: Image.Image | bytes, name: str = "cat.png") -> Any:
        """Uploads an image; what the server says of it."""
        data = image if isinstance(image, bytes) else png_bytes(image)
        reply = self.ask("POST", f"/api/images?name={name}", data, content_type="image/png")
        assert reply.status == 201, reply.body
        return reply.json

    def run(self, request: Mapping[str, Any], **images: Any) -> Any:
        """Submits a run and waits until it is over."""
        reply = self.post("/api/runs", {"request": request, **images})
        assert reply.status == 202, reply.body
        end = time.monotonic() + 120
        while time.monotonic() < end:
            news = self.get(f"/api/runs/{reply.json['id']}").json
            if news["state"] not in ("waiting", "running"):
                return news
            time.sleep(0.02)
        raise AssertionError(f"the run is not over: {news}")

    def file(self, run: Mapping[str, Any], name: str) -> Reply:
        return self.get(f"/api/runs/{run['id']}/{name}")


@contextmanager
def serving(
    model: Any,
    *,
    name: str = "toy",
    bounds: Bounds | None = None,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: Any = (),
) -> Iterator[Client]:
    """A server with one model, in threads of this process."""
    queue = JobQueue({name: model}, bounds or Bounds())
    server = Server(queue, {name: model}, limits or Limits(), token)
    listening = socket.create_server(("127.0.0.1", 0))
    running: uvicorn.Server = _uvicorn(create_app(server, hosts=hosts), "", None)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not running.started:
            time.sleep(0.005)
        yield Client(listening.getsockname()[1], server)
    finally:
        running.should_exit = True
        thread.join()
        queue.close()
