"""Stands in for vLLM's server: /health, /v1/models and chat completions of the standard library's making.

What it is to do wrong stands in the environment:

FAKE_VLLM_NOTES   a folder: each server leaves its command, environment and process ids in it
FAKE_VLLM_FAIL    ends at once, after writing this
FAKE_VLLM_HANGS   never listens
FAKE_VLLM_DIES    a server answers so many requests, then kills itself, its child left behind
FAKE_VLLM_LIVES   so many servers are started that die; those after them live
FAKE_VLLM_SICK    a server answers so many requests, then says that its engine is dead
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LABELS = ["exact", "substitute", "complement", "irrelevant"]
SETTING = os.environ.get
COUNTING = threading.Lock()


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--lora-modules", nargs="+", default=[])
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    return parser.parse_known_args()[0]


def note(child: int) -> int:
    """Leaves word of this server; gives its number, from 0."""
    if (folder := SETTING("FAKE_VLLM_NOTES")) is None:
        return 0
    notes = Path(folder)
    number = len(list(notes.glob("*.json")))
    seen = {"pid": os.getpid(), "child": child, "argv": sys.argv, "devices": SETTING("CUDA_VISIBLE_DEVICES")}
    draft = notes / f"{os.getpid()}.tmp"
    draft.write_text(json.dumps(seen))
    draft.rename(notes / f"{time.time_ns()}-{os.getpid()}.json")
    return number


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    names: list[str]
    answered = 0
    most = -1
    sick = -1

    def do_GET(self):
        if self.path == "/health":
            self.reply(503 if 0 <= Handler.sick <= Handler.answered else 200, {})
        else:
            self.reply(200, {"object": "list", "data": [{"id": name} for name in self.names]})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        schema = request.get("response_format", {}).get("json_schema", {}).get("schema", {})
        fields = schema.get("properties", {})
        labels = fields.get("label", {}).get("enum", ["parts"] * 2 if "corrected" in fields else [])
        if self.path != "/v1/chat/completions" or not labels:  # it has no other lane than json
            self.reply(404 if self.path != "/v1/chat/completions" else 400, {"error": {"message": "not here"}})
            return
        if len(labels) == 1:  # a probe: it keeps to a schema
            answer = {"role": "assistant", "content": json.dumps({"label": labels[0]})}
            self.reply(200, {"choices": [{"message": answer, "finish_reason": "stop"}]})
            return
        with COUNTING:
            Handler.answered += 1
            if 0 <= Handler.most < Handler.answered:
                os.kill(os.getpid(), signal.SIGKILL)
        if 0 <= Handler.sick < Handler.answered:
            self.reply(500, {"error": {"message": "EngineDeadError"}})
            return
        if request["model"] not in self.names:
            self.reply(404, {"error": {"message": f"The model {request['model']} does not exist."}})
            return
        answer = {"trace": f"{request['model']} says so.", "label": LABELS[len(self.names) % 4], "clauses": []}
        # Of a query: nothing is wrong with it, and there is nothing else to say.
        answer |= {"corrected": request["messages"][-1]["content"].rsplit("query: ", 1)[-1].splitlines()[0]}
        answer |= {"brand": [], "category": [], "expansions": []}
        answer |= {"confidence": dict.fromkeys(("corrected", "brand", "category", "expansions"), 0.9)}
        text = json.dumps({name: answer[name] for name in schema.get("properties", {"label": None})})
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 10, "completion_tokens": 2}
        self.reply(200, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})

    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def main() -> None:
    options = parsed()
    print("INFO loading", options.model, flush=True)
    if words := SETTING("FAKE_VLLM_FAIL"):
        sys.exit(words)
    # As vLLM has its engine in a process of its own.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    number = note(child.pid)
    if SETTING("FAKE_VLLM_HANGS"):
        time.sleep(600)
    if number < int(SETTING("FAKE_VLLM_LIVES", "1000000")):
        Handler.most = int(SETTING("FAKE_VLLM_DIES", "-1"))
        Handler.sick = int(SETTING("FAKE_VLLM_SICK", "-1"))
    Handler.names = [*options.served_model_name, *(module.split("=")[0] for module in options.lora_modules)]
    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer((options.host, options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
