"""An imitation of OpenAI's files and batches, for faults, and since the service cannot be reached from a test.

It runs in a thread of the test's process, so that what it holds outlives every client that is killed. A job takes
``run_s`` seconds, is listed ``lag_s`` seconds after it was made, and ends as ``ends`` says, one after the other:

    completed            every request has its line in the output file or the error file
    expired:SHARE        the first SHARE of them have; the others stand in the error file with the code batch_expired
    failed:CODE          none has; CODE is in the job's errors
    never                it goes on until it is cancelled

``on(text, fault)`` says what happens to requests about a text: a status (in the error file), ``error`` (a line without
a response), ``lost`` (no line at all), ``prose`` and the other kinds of answers of the fault server.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Complete = Callable[[dict[str, Any], str], dict[str, Any]]


@dataclass
class Job:
    id: str
    lines: list[dict[str, Any]]
    made: dict[str, Any]
    end: str
    began_s: float
    errors: list[dict[str, Any]] = field(default_factory=list)
    cancelled_s: float | None = None
    results: tuple[list[str], list[str]] | None = None


class BatchServer:
    """Runs on a free port of the loopback interface.

    Args:
        complete: Makes a chat completion for a request and a kind of answer.

    Attributes:
        base_url: For a teacher's ``base_url``.
        submitted: How often each request (hash of its body) was put into a job.
        live: How often each was asked live.
        jobs: Every job, by id.
        calls: What was called, in order: method and path.
        refuse: Statuses to answer instead, by method and start of the path, one call each.
    """

    def __init__(self, complete: Complete) -> None:
        self.run_s = 0.05
        self.lag_s = 0.0
        self.ends: list[str] = []
        self.files: dict[str, bytes] = {}
        self.jobs: dict[str, Job] = {}
        self.submitted: Counter[str] = Counter()
        self.live: Counter[str] = Counter()
        self.calls: list[str] = []
        self.refuse: dict[str, list[int]] = {}
        self.page = 3  # of the list of jobs, whatever is asked for
        self._complete = complete
        self._faults: dict[str, str] = {}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="batch-server", daemon=True)
        self._thread.start()
        assert self._ready.wait(10), "the batch server did not start"

    def on(self, text: str, fault: str) -> None:
        """Requests whose messages contain ``text`` meet this, in jobs."""
        self._faults[text] = fault

    def paid_twice(self) -> int:
        """Requests that were submitted again, or asked live besides."""
        return (self.submitted + self.live).total() - len(self.submitted | self.live)

    def open_jobs(self) -> int:
        """Jobs that are not over."""
        return sum(self._state(job) in ("validating", "in_progress", "cancelling") for job in self.jobs.values())

    def stop(self) -> None:
        """Ends it."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(10)

    async def _main(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()

        @web.middleware
        async def first(http: web.Request, handler: Any) -> web.StreamResponse:
            return await self._first(http, handler)

        app = web.Application(client_max_size=2**28, middlewares=[first])
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_post("/v1/batches", self._make)
        app.router.add_get("/v1/batches", self._list)
        app.router.add_get("/v1/batches/{id}", self._get)
        app.router.add_post("/v1/batches/{id}/cancel", self._cancel)
        app.router.add_post("/v1/chat/completions", self._live)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._ready.set()
        await self._stopping.wait()
        await runner.cleanup()

    async def _first(self, http: web.Request, handler: Any) -> web.StreamResponse:
        call = f"{http.method} {http.path.removeprefix('/v1')}"
        self.calls.append(call)
        for start, statuses in self.refuse.items():
            if call.startswith(start) and statuses:
                return _error(statuses.pop(0), "scripted")
        response: web.StreamResponse = await handler(http)
        return response

    async def _upload(self, http: web.Request) -> web.Response:
        form = await http.post()
        upload = form["file"]
        if form["purpose"] != "batch" or not isinstance(upload, web.FileField):
            return _error(400, "purpose must be batch")
        file_id = f"file-{len(self.files)}"
        self.files[file_id] = upload.file.read()
        return web.json_response({"id": file_id, "object": "file", "purpose": "batch", "filename": upload.filename})

    async def _make(self, http: web.Request) -> web.Response:
        made = await http.json()
        if made["completion_window"] != "24h" or made["endpoint"] != "/v1/chat/completions":
            return _error(400, "unknown window or endpoint")
        lines = [json.loads(line) for line in self.files[made["input_file_id"]].splitlines()]
        job = Job(f"batch_{len(self.jobs)}", lines, made, self.ends.pop(0) if self.ends else "completed", _now_s())
        if len({line["custom_id"] for line in lines}) < len(lines) or any(
            (line["method"], line["url"]) != ("POST", made["endpoint"]) for line in lines
        ):
            job.end = "failed:invalid_request"
        if not job.end.startswith("failed"):  # a failed job costs nothing, and may be sent again
            self.submitted.update(_hash(line["body"]) for line in lines)
        self.jobs[job.id] = job
        return web.json_response(self._shown(job))

    async def _list(self, http: web.Request) -> web.Response:
        listed = [job for job in reversed(self.jobs.values()) if _now_s() - job.began_s >= self.lag_s]
        if after := http.query.get("after"):
            listed = listed[[job.id for job in listed].index(after) + 1 :]
        page = [self._shown(job) for job in listed[: self.page]]
        return web.json_response({"object": "list", "data": page, "has_more": len(listed) > self.page})

    async def _get(self, http: web.Request) -> web.Response:
        job = self.jobs.get(http.match_info["id"])
        return _error(404, "No such batch") if job is None else web.json_response(self._shown(job))

    async def _cancel(self, http: web.Request) -> web.Response:
        job = self.jobs[http.match_info["id"]]
        if self._state(job) not in ("validating", "in_progress", "cancelling"):
            return _error(409, "Cannot cancel a batch that is over")
        job.cancelled_s = job.cancelled_s or _now_s()
        return web.json_response(self._shown(job))

    async def _content(self, http: web.Request) -> web.Response:
        found = self.files.get(http.match_info["id"])
        return _error(404, "No such file") if found is None else web.Response(body=found)

    async def _live(self, http: web.Request) -> web.Response:
        raw = await http.read()
        self.live[_hash(json.loads(raw))] += 1
        return web.json_response(self._complete(json.loads(raw), "ok"))

    def _state(self, job: Job) -> str:
        kind, age_s = job.end.partition(":")[0], _now_s() - job.began_s
        if job.cancelled_s is not None:
            return "cancelling" if _now_s() - job.cancelled_s < self.run_s / 2 else "cancelled"
        if kind == "never" or age_s < self.run_s:
            return "validating" if age_s < self.run_s / 4 else "in_progress"
        return kind

    def _shown(self, job: Job) -> dict[str, Any]:
        state = self._state(job)
        shown: dict[str, Any] = {
            "id": job.id,
            "object": "batch",
            "endpoint": job.made["endpoint"],
            "status": state,
            "metadata": job.made.get("metadata"),
            "input_file_id": job.made["input_file_id"],
            "output_file_id": None,
            "error_file_id": None,
            "request_counts": {"total": len(job.lines), "completed": 0, "failed": 0},
        }
        if state == "failed":
            error = {"code": job.end.partition(":")[2], "message": "The job was refused.", "line": None}
            shown["errors"] = {"object": "list", "data": [error]}
        elif state in ("completed", "expired", "cancelled"):
            answers, errors = job.results = job.results or self._results(job, state)
            shown["request_counts"].update(completed=len(answers), failed=len(errors))
            for name, lines in (("output", answers), ("error", errors)):
                if lines:
                    shown[f"{name}_file_id"] = file_id = f"file-{name}-{job.id}"
                    self.files.setdefault(file_id, ("\n".join(lines) + "\n").encode())
        return shown

    def _results(self, job: Job, state: str) -> tuple[list[str], list[str]]:
        share = 1.0 if state == "completed" else float(job.end.partition(":")[2] or 0.5)
        answers: list[str] = []
        errors: list[str] = []
        for number, line in enumerate(job.lines):
            fault = next((fault for text, fault in self._faults.items() if text in json.dumps(line["body"])), "ok")
            result: dict[str, Any] = {
                "id": f"r{number}",
                "custom_id": line["custom_id"],
                "response": None,
                "error": None,
            }
            if number >= share * len(job.lines):
                result["error"] = {"code": f"batch_{state}", "message": "The job ended first."}
                errors.append(json.dumps(result))
            elif fault.isdigit():
                body = {"error": {"message": "scripted", "type": "scripted", "code": None}}
                result["response"] = {"status_code": int(fault), "request_id": "x", "body": body}
                errors.append(json.dumps(result))
            elif fault == "error":
                result["error"] = {"code": "server_error", "message": "scripted"}
                errors.append(json.dumps(result))
            elif fault != "lost":
                body = self._complete(line["body"], fault)
                result["response"] = {"status_code": 200, "request_id": "x", "body": body}
                answers.append(json.dumps(result))
        return answers, errors


def _now_s() -> float:
    return time.monotonic()


def _hash(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "scripted", "code": None}}, status=status)
