"""A small Hub on the loopback, with one repository in several states."""

import contextlib
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pusa_jax.inference import packaged

FIRST, SECOND = "1" * 40, "2" * 40
"""Commits."""

EXTRAS = {
    "README.md": b"words",
    "assets/cat.png": b"picture",
    "config/settings.yaml": b"",
    "models_t5_umt5-xxl-enc-bf16.pth": b"a second copy",
}
"""Files that nobody reads."""


def published():
    """The tiny model as its authors would have it: name -> content."""
    top = Path(packaged.FOLDER)
    files = {str(p.relative_to(top)): p.read_bytes() for p in top.rglob("*") if p.is_file()}
    return files | EXTRAS


class Hub:
    """What is served, and what was asked.

    Attributes:
      files: commit -> name -> content.
      refs: branch -> commit.
      repository: its name; any other is not found.
      is_gated: whether files are refused to all.
      status: of every answer.
      delay: seconds before each.
      asked: "METHOD path" of every request.
      tokens: values of Authorization that came with them.
    """

    def __init__(self, files, repository="tiny-world/tiny"):
        self.files, self.refs, self.repository = files, {"main": next(iter(files))}, repository
        self.is_gated, self.status, self.delay = False, 200, 0.0
        self.asked, self.tokens, self.endpoint = [], set(), ""

    def bodies(self):
        """Files that were sent."""
        return sorted(a.split("/", 6)[-1] for a in self.asked if "GET" in a and "/resolve/" in a)

    def answer(self, path):
        """(status, headers, body) of a request."""
        if self.status != 200:
            return self.status, {}, b"{}"
        parts = unquote(path).strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        parts = parts[2:] if is_api else parts
        if "/".join(parts[:2]) != self.repository:
            return 401, {"X-Error-Code": "RepoNotFound"}, b'{"error": "Repository not found"}'
        what, revision, *rest = [*parts[2:], "", "main"][:2] + parts[4:]
        commit = self.refs.get(revision, revision)
        found = self.files.get(commit)
        if found is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b'{"error": "Invalid rev id"}'
        if what in ("", "revision"):
            siblings = [{"rfilename": n, "size": len(b)} for n, b in found.items()]
            named = {"id": self.repository, "modelId": self.repository, "sha": commit}
            return 200, {}, json.dumps(named | {"siblings": siblings, "tags": []}).encode()
        if what == "tree":
            rows = [
                {"type": "file", "path": n, "size": len(b), "oid": etag(b)}
                for n, b in found.items()
            ]
            return 200, {}, json.dumps(rows).encode()
        name = "/".join(rest)
        if self.is_gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b'{"error": "gated"}'
        if name not in found:
            return 404, {"X-Error-Code": "EntryNotFound"}, b'{"error": "no such file"}'
        return 200, {"ETag": f'"{etag(found[name])}"', "X-Repo-Commit": commit}, found[name]


def etag(content):
    """The name of a blob."""
    return hashlib.sha1(content).hexdigest()


@contextlib.contextmanager
def serving(hub):
    """Serves it until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            hub.asked.append(f"{self.command} {urlsplit(self.path).path}")
            hub.tokens.add(self.headers.get("Authorization"))
            time.sleep(hub.delay)
            status, headers, body = hub.answer(urlsplit(self.path).path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
