"""The ASGI application: its addresses, each a thin layer over the modules beside it.

GET  /                                        the page; /static/...: its script, style and icon
GET  /api/state                               jobs, workers, queues, schedules
GET  /api/jobs/ID                             one job
POST /api/jobs/ID/cancel                      with --allow-control
POST /api/schedules/NAME/pause|resume|run     with --allow-control
GET  /api/datasets                            the known datasets
GET  /api/datasets/KEY[/page|/sheet|/sample]  one dataset: its facts, a page, the contact sheet, a sample
GET  /api/datasets/KEY/sprite|picture         samples as an image
GET  /api/generators[/KEY]                    generators of the playground
POST /api/generators/KEY/draw                 samples of one
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from pipeline.common.errors import (
    DatasetError,
    GeneratorError,
    LedgerError,
    NoisemillError,
    StoreError,
    UnknownJobError,
    UsageError,
)
from pipeline.common.settings import Settings
from pipeline.common.version import VERSION
from pipeline.fleet.overview import FleetMonitor
from pipeline.jobs.ledger import Ledger
from pipeline.schedules.book import ScheduleBook
from pipeline.ui.guard import Guard
from pipeline.ui.library import Library, UnknownDatasetError
from pipeline.ui.live import Live, job_for_page
from pipeline.ui.open_dataset import MOST_AT_ONCE, OpenDataset
from pipeline.ui.playground import BusyError, Playground

_LOG = logging.getLogger(__name__)

#: The page's files and their media types.
_FILES = {
    "index.html": "text/html; charset=utf-8",
    "ui.css": "text/css; charset=utf-8",
    "main.js": "text/javascript; charset=utf-8",
    "dom.js": "text/javascript; charset=utf-8",
    "fleet.js": "text/javascript; charset=utf-8",
    "datasets.js": "text/javascript; charset=utf-8",
    "playground.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

#: Error -> status; the first that fits.
_STATUSES: tuple[tuple[type[NoisemillError], int], ...] = (
    (UnknownDatasetError, 404),
    (UnknownJobError, 404),
    (UsageError, 400),
    (BusyError, 503),
    (LedgerError, 503),
    (GeneratorError, 409),
    (DatasetError, 409),
    (StoreError, 502),
)

#: Largest body of a request, bytes; largest number in an address.
_MOST_BODY, _MOST_NUMBER = 8192, 10**13

#: An image of a dataset that is complete does not change under its address, which names the version of the spec.
_KEEP = "private, max-age=3600"


def create_app(
    settings: Settings,
    library: Library,
    *,
    token: str | None = None,
    local_only: bool = True,
    allow_control: bool = False,
    redis_expected: bool = True,
) -> ASGIApp:
    """The application. Unless `redis_expected`, the page makes little of a Redis that is away."""
    ui = _Ui(settings, library, allow_control=allow_control, redis_expected=redis_expected)
    return Guard(ui.application(), token=token, local_only=local_only)


class _Ui:
    def __init__(self, settings: Settings, library: Library, *, allow_control: bool, redis_expected: bool) -> None:
        self._settings, self._library = settings, library
        self._allow_control, self._redis_expected = allow_control, redis_expected
        self._live = Live(settings, library)
        self._ledger = Ledger(settings)
        self._monitor = FleetMonitor(settings, latest=1)
        self._book = ScheduleBook(settings)
        self._playground = Playground()
        folder = resources.files("pipeline.ui") / "static"
        self._files = {name: (folder / name).read_bytes() for name in _FILES}

    def application(self) -> Starlette:
        routes = [
            Route("/", self._file),
            Route("/static/{name}", self._file),
            Route("/api/state", self._api(self._state)),
            Route("/api/jobs/{job}", self._api(self._job)),
            Route("/api/jobs/{job}/cancel", self._control(self._cancel), methods=["POST"]),
            Route("/api/schedules/{name}/{action}", self._control(self._schedule), methods=["POST"]),
            Route("/api/datasets", self._api(self._datasets)),
            Route("/api/datasets/{key}", self._api(lambda request: self._dataset(request).facts())),
            Route("/api/datasets/{key}/page", self._api(self._page)),
            Route("/api/datasets/{key}/sheet", self._api(lambda request: self._dataset(request).sheet())),
            Route("/api/datasets/{key}/sample", self._api(self._sample)),
            Route("/api/datasets/{key}/sprite", self._image(self._sprite)),
            Route("/api/datasets/{key}/picture", self._image(self._picture)),
            Route("/api/generators", self._api(self._generators)),
            Route("/api/generators/{key}", self._api(self._generator)),
            Route("/api/generators/{key}/draw", self._draw, methods=["POST"]),
        ]

        @asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[None]:
            yield
            self._playground.close()

        return Starlette(routes=routes, lifespan=lifespan)

    # -- the kinds of response ---------------------------------------------------------------------

    async def _file(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in self._files:
            return _error(404, "there is no such file")
        data = self._files[name]
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=_FILES[name], headers=headers)

    @staticmethod
    def _api(read: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def respond(request: Request) -> Response:
            return await _translated(lambda: JSONResponse(read(request)))

        return respond

    def _control(self, change: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def respond(request: Request) -> Response:
            if not self._allow_control:
                return _error(403, "this page is read-only: start it with --allow-control")
            return await _translated(lambda: JSONResponse(change(request)))

        return respond

    @staticmethod
    def _image(draw: Callable[[Request], tuple[bytes, str]]) -> Callable[[Request], Any]:
        def response(request: Request) -> Response:
            data, kind = draw(request)
            return Response(data, media_type=kind, headers={"cache-control": _KEEP})

        async def respond(request: Request) -> Response:
            return await _translated(lambda: response(request))

        return respond

    # -- the fleet ---------------------------------------------------------------------------------

    def _state(self, _request: Request) -> dict[str, Any]:
        more = {"control": self._allow_control, "redis_expected": self._redis_expected, "version": VERSION}
        return {**self._live.state(), **more, "now": time.time()}

    def _job(self, request: Request) -> dict[str, Any]:
        job = self._ledger.job(self._job_id(request))
        self._library.add([job.destination])
        return job_for_page(job, self._monitor.read())

    def _cancel(self, request: Request) -> dict[str, Any]:
        job_id = self._job_id(request)
        self._ledger.cancel(job_id)
        return self._job(request)

    def _schedule(self, request: Request) -> dict[str, Any]:
        name, action = request.path_params["name"], request.path_params["action"]
        if action == "pause":
            self._book.pause(name)
        elif action == "resume":
            self._book.resume(name, time.time())
        elif action == "run":
            self._book.fire_by_hand(name, time.time())
        else:
            raise UsageError("a schedule can be paused, resumed and run")
        self._live.forget_schedules()
        return {"name": name, "action": action}

    def _job_id(self, request: Request) -> str:
        job_id = str(request.path_params["job"])
        if not re.fullmatch("[a-z0-9-]{1,100}", job_id):
            raise UnknownJobError("there is no such job")
        return job_id

    # -- datasets ----------------------------------------------------------------------------------

    def _datasets(self, _request: Request) -> list[dict[str, Any]]:
        self._live.state()  # It adds the destinations of jobs.
        return [
            {"key": key, "url": url, "given": key in self._library.given}
            for key, url in self._library.destinations().items()
        ]

    def _dataset(self, request: Request) -> OpenDataset:
        return self._library.open(request.path_params["key"])

    def _page(self, request: Request) -> dict[str, Any]:
        label = _number(request, "class") if "class" in request.query_params else None
        return self._dataset(request).page(_number(request, "page"), label)

    def _sample(self, request: Request) -> dict[str, Any]:
        return self._dataset(request).sample(_number(request, "index"))

    def _sprite(self, request: Request) -> tuple[bytes, str]:
        texts = request.query_params.get("indices", "").split(",")
        if len(texts) > MOST_AT_ONCE:
            raise UsageError(f"an image holds 1 to {MOST_AT_ONCE} samples")
        return self._dataset(request).sprite([_parsed(text, "indices") for text in texts])

    def _picture(self, request: Request) -> tuple[bytes, str]:
        return self._dataset(request).picture(_number(request, "index"))

    # -- the playground ----------------------------------------------------------------------------

    def _generators(self, _request: Request) -> list[dict[str, Any]]:
        state = self._live.state()
        held = {worker["generator"] for worker in state["workers"]}
        for job in state["jobs"]:
            try:
                self._playground.add(job["id"], lambda job=job: self._ledger.spec(job["id"])[0].generator)  # type: ignore[misc]
            except NoisemillError:  # Deleted since, or damaged: the others are listed.
                continue
        return [{**entry, "worker": entry["name"] in held} for entry in self._playground.names()]

    def _generator(self, request: Request) -> dict[str, Any]:
        return self._playground.facts(request.path_params["key"])

    async def _draw(self, request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _MOST_BODY:
                return _error(413, "the request is too large")

        def response() -> Response:
            try:
                asked = json.loads(body)
            except (ValueError, RecursionError):
                asked = None
            if not isinstance(asked, dict):
                raise UsageError("the request is not a JSON object")
            data, kind, labels = self._playground.draw(request.path_params["key"], asked)
            headers = {"x-labels": ",".join(map(str, labels or []))}
            return Response(data, media_type=kind, headers=headers)

        return await _translated(response)


async def _translated(respond: Callable[[], Response]) -> Response:
    """The response, made in a thread; errors as JSON."""
    try:
        return await run_in_threadpool(respond)
    except NoisemillError as error:
        status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
        return _error(status, str(error))
    except Exception:
        _LOG.exception("unexpected error")
        return _error(500, "unexpected error: the log of 'noisemill ui' has it")


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status)


def _number(request: Request, name: str) -> int:
    return _parsed(request.query_params.get(name, ""), name)


def _parsed(text: str, name: str) -> int:
    if not re.fullmatch("[0-9]{1,14}", text) or int(text) > _MOST_NUMBER:
        raise UsageError(f"{name} is not a number")
    return int(text)
