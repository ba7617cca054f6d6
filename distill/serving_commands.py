"""Commands that bring a student to where it is used: ``export`` and ``serve``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from distill.eval.scored import TruthSource


def export(  # noqa: PLR0913 (a command has this many options)
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="a student's folder")],
    out: Annotated[Path, typer.Option(help="folder to write")],
    to: Annotated[str, typer.Option(help="onnx (fp32), int8, or safetensors")] = "onnx",
    rows: Annotated[
        Path | None, typer.Option(help="rows to measure it on; the test rows of the student's run where none are given")
    ] = None,
    gold: Annotated[str | None, typer.Option(help="column of --rows with labels")] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="INPUT=COLUMN", help="where the file has another name")
    ] = None,
    truth: Annotated[str, typer.Option(help="who gave the labels: human, author or teacher")] = "human",
    tolerance: Annotated[float, typer.Option(min=0, help="points of quality that may be lost")] = 0.5,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Write a student as ONNX, in fp32 or INT8, and measure what that costs; too much, and nothing is written."""
    from distill.export import FORMS, check_rows, export_student

    if to not in FORMS:
        raise typer.BadParameter(f"got {to!r}; one of {', '.join(FORMS)}", param_hint="--to")
    if truth not in ("human", "author", "teacher"):
        raise typer.BadParameter(f"got {truth!r}; one of human, author, teacher", param_hint="--truth")
    checked = check_rows(student, rows, gold=gold, columns=columns or (), truth_source=cast("TruthSource", truth))
    done = export_student(student, out, form=to, rows=checked, tolerance=tolerance)
    if as_json:
        facts = {"path": str(done.path), "form": done.form, "bytes": done.bytes}
        print(json.dumps({**facts, "check": done.check and done.check.to_dict()}, indent=1))
    else:
        print(done.path)
    print(done.sentence(), file=sys.stderr)


def serve(  # noqa: PLR0913 (a command has this many options)
    students: Annotated[
        list[str], typer.Argument(metavar="STUDENT...", help="folders of students or exports; NAME=FOLDER to rename")
    ],
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 for all")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free")] = 8080,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="environment variable with the key that clients must send")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of a prediction; all cores")] = None,
    batch_rows: Annotated[int, typer.Option(min=1, help="rows of several requests predicted at once")] = 64,
    batch_wait_ms: Annotated[
        float, typer.Option(min=0, help="how long an idle server waits for more of them, while several ask at once")
    ] = 2.0,
    queue_rows: Annotated[int, typer.Option(min=1, help="rows that may wait; then 503")] = 4096,
    max_rows: Annotated[int, typer.Option(min=1, help="rows of one request")] = 256,
    max_bytes: Annotated[int, typer.Option(min=1024, help="bytes of one request")] = 4 * 2**20,
) -> None:
    """Answer over HTTP in the shape of a decision endpoint, with dynamic batching."""
    import logging
    import os

    from distill.labeling.errors import UsageError
    from distill.server import ServerConfig, load_students
    from distill.server import serve as run_server
    from distill.server_batching import BatchLimits
    from distill.server_wire import Limits

    key = None
    if api_key_env is not None and not (key := os.environ.get(api_key_env)):
        raise UsageError(f"serve: --api-key-env {api_key_env}: the variable is not set or empty; set it to the key")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    loaded = load_students(students)
    config = ServerConfig(
        host=host,
        port=port,
        api_key=key,
        threads=threads,
        limits=Limits(rows=max_rows, body_bytes=max_bytes),
        batches=BatchLimits(rows=batch_rows, wait_s=batch_wait_ms / 1000, queued_rows=queue_rows),
    )
    names = ", ".join(loaded)
    run_server(loaded, config, on_start=lambda url: print(f"{names} at {url}/v1", file=sys.stderr, flush=True))
