"""A small hub on this machine: the requests that huggingface_hub makes, answered as the hub does.

What it does was read off huggingface_hub's requests and checks, and the hub's documented headers.
All files are plain: it has neither Xet storage nor LFS files.
"""

import hashlib
import json
import re
import threading
from collections import namedtuple
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

KIND, REPOSITORY = "(models|datasets)", "([^/]+/[^/]+)"


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """It has one commit. files: their content by path. kind: models or datasets. readers: the
    tokens that may read it, or None for all the world. commit: its hash, if a test needs a certain.
    """

    files: dict[str, bytes]
    kind: str = "models"
    readers: set[str] | None = None
    commit: str = ""

    @property
    def revision(self) -> str:
        """The hash of the commit."""
        return self.commit or hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


Request = namedtuple("Request", "method path token")


class Hub:
    """The state of the hub, and its server while `running`.

    tokens: those that the hub knows. requests: all that were made.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.tokens: set[str] = set()
        self.requests: list[Request] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("", (_Hub,), {"hub": self}))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def add(self, name: str, files: dict[str, bytes], **settings) -> str:
        """Add a repository with these files. The hash of its commit."""
        self.repositories[name] = Repository(files, **settings)
        return self.repositories[name].revision

    def fetched(self) -> list[str]:
        """The files whose content was asked for, sorted."""
        paths = [r.path for r in self.requests if r.method == "GET"]
        return sorted(p.split("/")[-1] for p in paths if "/resolve/" in p)

    @contextmanager
    def running(self):
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def note(self) -> str:
        """Take down the request. Its path, decoded."""
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(Request(self.command, path, self.token))
        return path

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, value: object, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def fail(self, status: int, message: str, code: str | None = None) -> None:
        headers = {"X_Error_Message": message} | ({"X_Error_Code": code} if code else {})
        self.answer(status, json.dumps({"error": message}).encode(), **headers)


class _Hub(Handler):
    """The hub itself: lists, metadata, small files, redirects."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.note()
        if path == "/api/agent-harnesses":  # a list that huggingface_hub gets once a day
            self.answer_json({"standardEnvVars": [], "harnesses": {}})
        elif match := re.fullmatch(rf"/api/{KIND}/{REPOSITORY}/tree/(.+)", path):
            self.tree(*match.groups())
        elif match := re.fullmatch(rf"/api/{KIND}/{REPOSITORY}(?:/revision/(.+))?", path):
            self.info(*match.groups())
        elif match := re.fullmatch(rf"/(datasets/)?{REPOSITORY}/resolve/([^/]+)/(.+)", path):
            self.resolve(*match.groups())
        else:
            self.fail(404, f"the tests' hub does not know {self.command} {path}")

    # Reading

    def find(self, kind: str, name: str, revision: str | None) -> Repository | None:
        """A repository that the token may see at a revision; else the hub's error."""
        repository = self.hub.repositories.get(name)
        if self.token and self.token not in self.hub.tokens:
            self.fail(401, "Invalid credentials in Authorization header")
        elif repository is None or repository.kind != kind or not self.may_read(repository):
            self.fail(404, "Repository not found", "RepoNotFound")
        elif revision not in (None, "main", repository.revision):
            self.fail(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        else:
            return repository
        return None

    def may_read(self, repository: Repository) -> bool:
        return repository.readers is None or self.token in repository.readers

    def tree(self, kind: str, name: str, revision: str) -> None:
        if repository := self.find(kind, name, revision):
            self.answer_json([_entry(*item) for item in sorted(repository.files.items())])

    def info(self, kind: str, name: str, revision: str | None) -> None:
        if repository := self.find(kind, name, revision):
            is_private = repository.readers is not None
            self.answer_json({"id": name, "sha": repository.revision, "private": is_private})

    def resolve(self, kind: str | None, name: str, revision: str, file: str) -> None:
        if not (repository := self.find("datasets" if kind else "models", name, revision)):
            return
        commit = repository.revision
        if (content := repository.files.get(file)) is None:
            self.fail(404, "Entry not found", "EntryNotFound")
        else:
            self.answer(200, content, ETag=f'"{git_hash(content)}"', X_Repo_Commit=commit)


def _entry(path: str, content: bytes) -> dict:
    """A file in the hub's list."""
    return {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
