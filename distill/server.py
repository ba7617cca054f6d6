"""``distill serve``: students behind HTTP, in the shape of a decision endpoint.

Routes: ``POST /v1/decisions`` and ``POST /v1/systemone`` (a question in, a probability per option out),
``POST /v1/predict`` (rows of named fields; the one for students of query tasks), ``GET /v1/models``, ``/healthz``,
``/readyz`` and ``/metrics``. Nothing that a client sends is ever logged.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from distill.labeling.errors import UsageError
from distill.server_batching import Batcher, BatchLimits
from distill.server_errors import ServeError, bad
from distill.server_metrics import Metrics
from distill.server_wire import Limits, parts_told, read_decision, read_rows, write_decision, write_parts, write_rows
from distill.students.student import Student, load_student

if TYPE_CHECKING:
    import polars as pl
    from aiohttp import web

_log = logging.getLogger(__name__)
_OPEN = ("/healthz", "/readyz", "/metrics")


@dataclass(frozen=True)
class ServerConfig:
    """How students are served.

    Attributes:
        host: Address to listen on; other machines reach it at ``0.0.0.0`` only.
        port: 0 for any that is free.
        api_key: What clients must send as ``Authorization: Bearer``; None lets everyone in.
        threads: CPU threads of a prediction; as many as there are cores where not given.
        precision: As for :meth:`distill.students.student.Student.predict`.
        limits: Of one request.
        batches: How rows of several requests are gathered.
        drain_s: Seconds that requests under way are given when the server is told to stop.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    threads: int | None = None
    precision: str = "auto"
    limits: Limits = field(default_factory=Limits)
    batches: BatchLimits = field(default_factory=BatchLimits)
    drain_s: float = 30.0


class _Served(NamedTuple):
    student: Student
    batcher: Batcher
    since: int

    @property
    def by_part(self) -> bool:
        """Whether its answers are no single label, so that it gives a line a row and part."""
        return self.student.info.parts is not None


def load_students(named: Sequence[str]) -> dict[str, Student]:
    """Loads students by the names that clients call them.

    Args:
        named: ``FOLDER``, whose own name it gets, or ``NAME=FOLDER``.

    Raises:
        UsageError: Two have the same name.
        StudentError: A folder holds none.
    """
    students: dict[str, Student] = {}
    for item in named:
        name, equals, folder = item.partition("=")
        path = Path(folder if equals and not Path(item).exists() else item)
        name = name if equals and not Path(item).exists() else path.resolve().name
        if name in students:
            raise UsageError(f"serve: two students are called {name!r}; give one another name: NAME={path}")
        students[name] = load_student(path)
    return students


def serve(students: Mapping[str, Student], config: ServerConfig, *, on_start: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM; requests under way are answered first.

    Args:
        students: By the name that clients call them.
        config: How.
        on_start: Takes the address, once connections are accepted.
    """
    asyncio.run(_serve(students, config, on_start))


async def _serve(students: Mapping[str, Student], config: ServerConfig, on_start: Callable[[str], None]) -> None:
    import signal

    from aiohttp import web

    server = Server(students, config)
    runner = web.AppRunner(server.app, access_log=None, shutdown_timeout=config.drain_s)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, config.host, config.port).start()
        except OSError as error:
            raise UsageError(
                f"serve: cannot listen on {config.host}:{config.port} ({error}); give another --port"
            ) from error
        host, port = runner.addresses[0][:2]
        on_start(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await stop.wait()
        server.ready = False
    finally:
        await runner.cleanup()


class Server:
    """The application.

    Args:
        students: By the name that clients call them.
        config: How they are served; host and port are whoever runs the application's.

    Attributes:
        app: For an ``aiohttp.web.AppRunner``.
        ready: Whether ``/readyz`` says so: after each student has predicted once, until the server is told to stop.
        metrics: What is counted.
        limits: Of one request.
    """

    def __init__(self, students: Mapping[str, Student], config: ServerConfig) -> None:
        from aiohttp import web

        self.ready = False
        self.metrics = Metrics()
        self.limits = config.limits
        self._students = students
        self._config = config
        self._served: dict[str, _Served] = {}
        self.app = web.Application(client_max_size=config.limits.body_bytes, middlewares=[_middleware(self)])
        self.app.cleanup_ctx.append(self._predicting)
        self.app.router.add_get("/healthz", self._health)
        self.app.router.add_get("/readyz", self._readiness)
        self.app.router.add_get("/metrics", self._told_metrics)
        self.app.router.add_get("/v1/models", self._models)
        self.app.router.add_post("/v1/predict", self._predict)
        self.app.router.add_post("/v1/{path:decisions|systemone}", self._decide)

    async def _predicting(self, _: web.Application) -> AsyncIterator[None]:
        # One thread for all students: each uses every core by itself, and settings of torch are the process's.
        with ThreadPoolExecutor(1, thread_name_prefix="predict") as executor:
            for name, student in self._students.items():
                await self._start(name, student, executor)
            self.ready = True
            yield
            self.ready = False
            for served in self._served.values():
                await served.batcher.stop()

    async def _start(self, name: str, student: Student, executor: Executor) -> None:
        batcher = Batcher(
            self._predictor(student),
            executor,
            limits=self._config.batches,
            on_batch=partial(self.metrics.predicted, name),
            lines=1 if student.info.parts is None else len(student.task.singles),
        )
        self.metrics.watch_queue(name, lambda: batcher.waiting)
        self._served[name] = _Served(student, batcher, int(time.time()))
        batcher.start()
        # The first prediction loads what the others find ready.
        await batcher.predict([dict.fromkeys(student.task.inputs, "")])

    def _predictor(self, student: Student) -> Callable[[pl.DataFrame], pl.DataFrame]:
        precision, threads = self._config.precision, self._config.threads
        return lambda rows: student.predict(rows, precision=precision, threads=threads)

    async def _health(self, _: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def _readiness(self, _: web.Request) -> web.Response:
        return _json({"status": "ready" if self.ready else "not ready"}, status=200 if self.ready else 503)

    async def _told_metrics(self, _: web.Request) -> web.Response:
        from aiohttp import web

        return web.Response(
            text=self.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _models(self, _: web.Request) -> web.Response:
        listed = [
            {
                "id": name,
                "object": "model",
                "created": served.since,
                "owned_by": "distill",
                "type": served.student.info.type,
                "inputs": list(served.student.task.inputs),
                "labels": list(served.student.task.labels),
                **({"parts": parts_told(served.student.task)} if served.by_part else {}),
            }
            for name, served in self._served.items()
        ]
        return _json({"object": "list", "data": listed})

    async def _predict(self, request: web.Request) -> web.Response:
        body = await _body(request)
        name, served = self._asked(body)
        task = served.student.task
        rows = read_rows(body, task=task, limits=self.limits)
        write = write_parts if served.by_part else write_rows
        return _json(write(name, task, body["rows"], await served.batcher.predict(rows)))

    async def _decide(self, request: web.Request) -> web.Response:
        body = await _body(request)
        name, served = self._asked(body)
        task = served.student.task
        if served.by_part:
            raise bad(
                "model: its answers are no single label, and a decision is one; send rows to /v1/predict",
                param="model",
                code="unsupported",
            )
        dialect, questions = read_decision(body, task=task, path=request.match_info["path"], limits=self.limits)
        lines = await served.batcher.predict([question.row for question in questions])
        found = [dict(zip(task.labels, line["probs"], strict=True)) for line in lines]
        return _json(write_decision(dialect, name, questions, found))

    def _asked(self, body: Mapping[str, Any]) -> tuple[str, _Served]:
        name = body.get("model")
        if name is None and len(self._served) == 1:
            name = next(iter(self._served))
        if not isinstance(name, str) or name not in self._served:
            known = ", ".join(self._served)
            raise ServeError(404, f"model: no such model here; there is {known}", code="model_not_found", param="model")
        return name, self._served[name]

    def admits(self, request: web.Request) -> bool:
        """Whether a request carries the key, or needs none."""
        if self._config.api_key is None or request.path in _OPEN:
            return True
        given = request.headers.get("Authorization", "")
        return hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {self._config.api_key}".encode())


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        found = json.loads(await request.read())
    except (ValueError, RecursionError):
        raise bad("the body is no JSON; send an object", param=None, code="invalid_json") from None
    if not isinstance(found, dict):
        raise bad("the body is JSON, but no object; send one", param=None, code="invalid_json")
    return found


def _middleware(server: Server) -> Any:
    from aiohttp import web

    @web.middleware
    async def middleware(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        began = time.monotonic()
        status = 499  # the client went away before it was answered
        try:
            response = await _answered(server, request, handler)
            status = response.status
            return response
        finally:
            resource = request.match_info.route.resource
            # Of an unknown path the name is the client's, and there may be any number of them.
            known = resource is not None and resource.canonical.startswith("/")
            path = request.path if known else "other"
            server.metrics.answered(path, status, time.monotonic() - began)

    return middleware


async def _answered(
    server: Server, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    from aiohttp import web

    allowed: dict[str, str] = {}
    try:
        if not server.admits(request):
            raise ServeError(401, "the key is missing or wrong; send Authorization: Bearer KEY", code="invalid_api_key")
        return await handler(request)
    except ServeError as problem:
        told = problem
    except web.HTTPRequestEntityTooLarge:
        told = ServeError(
            413, f"the body is larger than {server.limits.body_bytes:,} bytes; send fewer rows", code="body_too_large"
        )
    except web.HTTPException as problem:
        told = ServeError(problem.status, f"{problem.reason}; the routes are in docs/serving.md", code="no_such_route")
        allowed = {"Allow": problem.headers["Allow"]} if "Allow" in problem.headers else {}
    except Exception as problem:
        # Its message may quote a row, so that only what and where it was is told.
        where = traceback.extract_tb(problem.__traceback__)[-1]
        _log.error("%s: %s at %s:%s", request.path, type(problem).__name__, where.filename, where.lineno)
        told = ServeError(500, "the server failed on this request; its log says where", code="internal_error")
    return _json(told.body, status=told.status, headers={**told.headers, **allowed})


def _json(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    from aiohttp import web

    return web.json_response(value, status=status, headers=headers)
