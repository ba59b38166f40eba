"""A small server of the OpenAI completions API over a tiny model, which can be told to misbehave.

For what a real server does only on bad days: the tests against a real vLLM server are in tests/vllm.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from regrow.checkpoint import Checkpoint
from regrow.selfdata.engines import Sampling, TransformersEngine

# What to do with a request instead of answering it.
Fault = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, body: str = "{}", **headers: str) -> Fault:
    """Answer with this status and body."""

    def fault(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body.encode())))
        handler.end_headers()
        handler.wfile.write(body.encode())

    return fault


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection without a word."""
    handler.close_connection = True
    handler.connection.shutdown(2)


def stall(seconds: float) -> Fault:
    """Keep the connection open and say nothing for so long, then hang up."""

    def fault(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        hang_up(handler)

    return fault


class Served:
    """What a running server saw, and what it is to do next."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.faults: deque[Fault | None] = deque()  # None: answer
        self.most_at_once = 0
        self.extra_prompt_tokens = 0


@contextmanager
def serving(checkpoint: Checkpoint, port: int = 0, delay: float = 0.0) -> Iterator[Served]:
    """Serve a model as `tiny` on a free port, or on this one."""
    engine = TransformersEngine(checkpoint)
    lock, busy = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            served.keys.append(self.headers.get("Authorization"))
            self._json({"data": [{"id": "tiny", "max_model_len": 900}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                served.requests.append(body)
                fault = served.faults.popleft() if served.faults else None
                busy[0] += 1
                served.most_at_once = max(served.most_at_once, busy[0])
            try:
                if fault:
                    fault(self)
                    return
                time.sleep(delay)
                text = engine._tokenizer.decode(body["prompt"])
                with lock:
                    (wrote,) = engine.generate([text], Sampling(max_new_tokens=body["max_tokens"]))
            finally:
                with lock:
                    busy[0] -= 1
            choice = {"text": wrote.text, "finish_reason": "stop" if wrote.finished else "length"}
            usage = {
                "prompt_tokens": len(body["prompt"]) + served.extra_prompt_tokens,
                "completion_tokens": wrote.tokens,
            }
            self._json({"choices": [choice], "usage": usage})

        def _json(self, value: Any) -> None:
            status(200, json.dumps(value), Content_Type="application/json")(self)

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    served = Served(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
