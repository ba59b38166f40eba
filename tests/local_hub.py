"""A hub on this machine: serves folders over the part of the hub's HTTP interface that clients use."""

import json
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def local_hub(repositories: dict[str, Path]):
    """Serve `models/org/name` and `datasets/org/name` folders; yield the address and the requests."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_POST(self):
            # Only paths-info is asked with POST; its form lists the paths.
            length = int(self.headers.get("Content-Length", 0))
            self.form = self.rfile.read(length).decode()
            self.answer(body=True)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, *, body: bool):
            path = self.path.split("?")[0]
            requests.append(f"{self.command} {path}")
            parts = path.strip("/").split("/")
            if parts[0] == "api" and len(parts) >= 4:
                self.api("/".join(parts[1:4]), parts[4:])
            elif "resolve" in parts:
                at = parts.index("resolve")
                name = "/".join(parts[:at])
                kind = name if name.startswith("datasets/") else f"models/{name}"
                self.file(kind, parts[at + 1], "/".join(parts[at + 2 :]), body=body)
            else:
                self.send(404, b"{}")

        def api(self, name: str, rest: list[str]):
            folder = self.folder(name, rest[1] if len(rest) > 1 else COMMIT)
            if not folder:
                return
            files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
            if not rest or rest[0] == "revision":
                siblings = [{"rfilename": file} for file in files]
                info = {"id": name.split("/", 1)[1], "sha": COMMIT, "siblings": siblings, "private": False}
                self.send(200, json.dumps(info | {"gated": False, "tags": [], "disabled": False}).encode())
            elif rest[0] == "tree":
                under = "/".join(rest[2:])
                kept = [file for file in files if file.startswith(under)]
                self.send(200, json.dumps([self.entry(folder, file) for file in kept]).encode())
            elif rest[0] == "paths-info":
                kept = [file for file in files if file.replace("/", "%2F") in self.form or file in self.form]
                self.send(200, json.dumps([self.entry(folder, file) for file in kept]).encode())
            else:
                self.send(404, b"{}")

        @staticmethod
        def entry(folder: Path, file: str) -> dict:
            data = (folder / file).read_bytes()
            return {"type": "file", "path": file, "size": len(data), "oid": sha1(data).hexdigest()}

        def folder(self, name: str, revision: str) -> Path | None:
            if name not in repositories:
                self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif name.endswith("gated"):
                self.send(403, b"{}", {"X-Error-Code": "GatedRepo"})
            elif revision != COMMIT:
                self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            else:
                return repositories[name]
            return None

        def file(self, name: str, revision: str, path: str, *, body: bool):
            if not (folder := self.folder(name, revision)):
                return
            if not (folder / path).is_file():
                self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                return
            data = (folder / path).read_bytes()
            headers = {
                "ETag": f'"{sha1(data).hexdigest()}"',
                "X-Repo-Commit": COMMIT,
                "Accept-Ranges": "bytes",
            }
            self.send(200, data, headers, body=body)

        def send(self, status: int, data: bytes, headers: dict | None = None, *, body: bool = True):
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body and self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        server.server_close()
