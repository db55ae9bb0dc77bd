"""The server of the page: its files, uploads, runs and their results. No path of a request names a file of the disk."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sfumato.api.edit_run import Sources
from sfumato.api.source_memory import SourceMemory
from sfumato.apps.web.bodies import read_body, read_object
from sfumato.apps.web.forms import Form, Limits, read_form
from sfumato.apps.web.guard import COOKIE, Guard
from sfumato.apps.web.library import example_edits, library, read_examples
from sfumato.apps.web.public import without_paths
from sfumato.apps.web.uploads import Upload, Uploads
from sfumato.apps.web.work import Answer, run_form
from sfumato.errors import SfumatoError
from sfumato.models.base import Model
from sfumato.run.job_queue import Busy, Job, JobQueue, TooMany
from sfumato.watch import Watch

PAGE = Path(__file__).parent / "page"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".mp4": "video/mp4",
}
SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_BETWEEN_SIGNS = 10.0
PREVIEW = "preview.jpg"
AT_ONCE = 2
"""Uploads that are decoded, and movies that are made."""


@dataclass
class Server:
    """All that the routes share.

    Attributes:
        queue: Runs jobs on the models.
        models: By the names that clients see.
        limits: What one run may ask for.
        token: That opens the page, or None.
        history: Whether the page keeps what was made, in the browser.
    """

    queue: JobQueue
    models: Mapping[str, Model]
    limits: Limits
    token: str | None = None
    history: bool = True
    uploads: Uploads = field(default_factory=Uploads)

    def __post_init__(self) -> None:
        found = read_examples(self.limits)
        self._examples = {upload.id: upload for _, upload in found}
        told = [
            {**upload.to_json(), "prompt": prompt, "targets": targets}
            for (prompt, upload), targets in zip(found, example_edits([prompt for prompt, _ in found]), strict=True)
        ]
        self._library = {**library(self.models, told, self.limits), "history": self.history}
        self._static = {path.name: path.read_bytes() for path in PAGE.iterdir() if path.suffix in KINDS}
        self._heavy = asyncio.Semaphore(AT_ONCE)
        self._sources: dict[str, Sources] = {name: SourceMemory(8) for name in self.models}

    def find(self, upload_id: str) -> Upload | None:
        """An image of a client, or one that comes with sfumato."""
        return self._examples.get(upload_id) or self.uploads.get(upload_id)

    async def page(self, request: Request) -> Response:
        """The page itself, and what it loads: files of the package, known by name since the start."""
        name = request.path_params.get("name", "index.html")
        data = self._static.get(name)
        if data is None:
            raise HTTPException(404)
        tag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(data, headers={**headers, "content-type": KINDS[Path(name).suffix]})

    async def health(self, request: Request) -> Response:
        return JSONResponse({"ok": not self.queue.closed})

    async def login(self, request: Request) -> Response:
        """Sets the cookie for a client that has the token."""
        given = (await read_object(request)).get("token")
        if self.token is None or not isinstance(given, str):
            raise HTTPException(400, "there is no token here" if self.token is None else "send the token")
        if not hmac.compare_digest(given.strip().encode("utf-8", "replace"), self.token.encode()):
            raise HTTPException(401, "the token is wrong")
        answer = JSONResponse({"ok": True})
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict", secure=secure)
        return answer

    async def library(self, request: Request) -> Response:
        return JSONResponse(self._library)

    async def upload(self, request: Request) -> Response:
        """Takes an image as the bytes of its file; `?name=` is what the client calls it."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not (kind == "application/octet-stream" or kind.startswith("image/")):
            raise HTTPException(415, "send the bytes of an image")
        data = await read_body(request, self.limits.upload_bytes)
        name = request.query_params.get("name", "")[:1000]
        async with self._heavy:
            upload = await run_in_threadpool(Upload.read, data, name, self.limits.pixels)
        return JSONResponse(self.uploads.add(upload).to_json(), 201)

    async def shown(self, request: Request) -> Response:
        upload = self.find(request.path_params["id"])
        if upload is None:
            raise HTTPException(404, "the image is not on the server any more: give it again")
        return _file(upload.shown, ".png")

    async def submit(self, request: Request) -> Response:
        """Checks what a client asks for and puts it into the queue."""
        values = await read_object(request)
        name = values.get("model", next(iter(self.models)))
        if name not in self.models:
            raise HTTPException(422, f"there is no such model here: there are {', '.join(self.models)}")
        form = await run_in_threadpool(read_form, values, self.models[name], self.find, self.limits)
        client = request.client.host if request.client else ""
        job = self.queue.submit(self._work(form, name), model=name, client=client, pixels=form.pixels)
        return JSONResponse({"id": job.id, "place": self.queue.place(job)}, 202)

    def _work(self, form: Form, name: str) -> Callable[[Model, Watch], Answer]:
        return lambda model, watch: run_form(form, model, watch, self._sources[name])

    def _job(self, request: Request) -> Job:
        job = self.queue.get(request.path_params["id"])
        if job is None:
            raise HTTPException(404, "this run is not on the server any more")
        return job

    def _news(self, job: Job) -> dict[str, Any]:
        """Where a job stands."""
        news: dict[str, Any] = {
            "id": job.id,
            "state": job.state,
            "place": self.queue.place(job),
            "stage": job.stage,
            "done": job.done,
            "total": job.total,
            "previews": job.previews,
        }
        if job.error:
            news["error"] = without_paths(job.error)
        if job.outcome is not None:
            news["result"] = job.outcome.facts
        return news

    async def run(self, request: Request) -> Response:
        return JSONResponse(self._news(self._job(request)))

    async def cancel(self, request: Request) -> Response:
        return JSONResponse({"cancelled": self.queue.cancel(self._job(request).id)})

    async def events(self, request: Request) -> Response:
        """Server-sent events: where a job stands, whenever that changes, until it is over."""
        job = self._job(request)
        seen = request.headers.get("last-event-id", "")

        async def told() -> AsyncIterator[str]:
            last, silent = seen, 0.0
            while self.queue.get(job.id) is not None:
                mark = f"{job.version}.{self.queue.place(job)}"
                if mark != last:
                    yield f"id: {mark}\ndata: {json.dumps(self._news(job), default=str)}\n\n"
                    last, silent = mark, 0.0
                elif silent >= SECONDS_BETWEEN_SIGNS:
                    yield ": waiting\n\n"
                    silent = 0.0
                if job.over:
                    return
                await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
                silent += SECONDS_BETWEEN_LOOKS

        return StreamingResponse(told(), headers={"content-type": "text/event-stream", "x-accel-buffering": "no"})

    async def result(self, request: Request) -> Response:
        """A file of a result, or the last preview of a run."""
        job, name = self._job(request), request.path_params["name"]
        data = job.preview if name == PREVIEW else None
        if data is None and isinstance(job.outcome, Answer):
            async with self._heavy:  # a movie is made when it is asked for
                data = await run_in_threadpool(job.outcome.file, name)
        if data is None and name == PREVIEW:  # asked for while the run ended, and gone since
            return Response(status_code=204)
        if data is None:
            raise HTTPException(404, "there is no such file of this run")
        return _file(data, Path(name).suffix)

    def routes(self) -> list[Route]:
        """All routes; what is not among them is not found."""
        return [
            Route("/", self.page),
            Route("/static/{name}", self.page),
            Route("/login", self.login, methods=["POST"]),
            Route("/api/health", self.health),
            Route("/api/library", self.library),
            Route("/api/images", self.upload, methods=["POST"]),
            Route("/api/images/{id}.png", self.shown),
            Route("/api/runs", self.submit, methods=["POST"]),
            Route("/api/runs/{id}", self.run, methods=["GET"]),
            Route("/api/runs/{id}", self.cancel, methods=["DELETE"]),
            Route("/api/runs/{id}/events", self.events),
            Route("/api/runs/{id}/{name}", self.result),
        ]


def create_app(server: Server, *, hosts: Collection[str] = ()) -> Guard:
    """The application that a server such as uvicorn runs; it closes the queue when it ends.

    Args:
        server: What the routes share.
        hosts: Names that the server goes by, besides those of this computer.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(server.queue.close)

    app = Starlette(
        routes=server.routes(),
        lifespan=lifespan,
        exception_handlers={SfumatoError: _refused, HTTPException: _failed, Exception: _broken},
    )
    return Guard(app, hosts, server.token)


async def _refused(_: Request, error: Exception) -> Response:
    """Our own errors, in their own words; a full queue says when to try again."""
    if isinstance(error, Busy):
        status = 429 if isinstance(error, TooMany) else 503
        headers = {"retry-after": str(error.retry_after)}
        return JSONResponse({"error": str(error), "retry_after": error.retry_after}, status, headers)
    return JSONResponse({"error": without_paths(str(error))}, 422)


async def _failed(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    detail = error.detail if isinstance(error, HTTPException) else ""
    return JSONResponse({"error": detail or "this is not here"}, status, headers)


async def _broken(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server could not do this; its log says why"}, 500)


def _file(data: bytes, suffix: str) -> Response:
    """A file that never changes, for this client alone."""
    headers = {"cache-control": "private, max-age=3600", "content-type": KINDS[suffix]}
    return Response(data, headers=headers)
