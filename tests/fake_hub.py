"""The part of the Hub that an upload by huggingface_hub talks to, as a local HTTP server.

with fake_hub() as hub:
    HF_ENDPOINT=hub.url …
    hub.repos["me/model"]        # path → bytes, of what was committed
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_of_a_writer"
_LARGE = 10_000  # bytes from which a file goes through LFS


@dataclass
class Hub:
    """What was asked of it.

    Attributes:
        repos: repository → path → content, committed.
        private: repository → was it made private.
        objects: LFS objects by SHA-256.
        branches: repository and branch of every commit.
    """

    url: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    commits: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def fake_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = self.path.split("?")[0].strip("/").split("/")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid credentials"})
        elif parts == ["api", "validate-yaml"]:
            self._validate(json.loads(body))
        elif parts == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif parts[:2] == ["api", "models"] and parts[4] == "branch":
            self._answer(200, {})
        elif parts[:2] == ["api", "models"] and parts[4] == "preupload":
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= _LARGE else "regular",
                    "shouldIgnore": False,
                }
                for file in files
            ]
            self._answer(200, {"files": modes})
        elif parts[:2] == ["api", "models"] and parts[4] == "commit":
            self._commit("/".join(parts[2:4]), parts[5], body)
        elif parts[-2:] == ["objects", "batch"]:
            self._batch(json.loads(body))
        else:
            self._answer(404, {"error": self.path})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.state.objects[self.path.split("/")[-1]] = content
        self._answer(200, {})

    def do_GET(self) -> None:
        self._answer(404, {"error": self.path})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        known = name in self.state.repos
        self.state.repos.setdefault(name, {})
        self.state.private.setdefault(name, asked.get("visibility") == "private")
        url = f"{self.state.url}/{name}"
        self._answer(409 if known else 200, {"url": url, "name": name, "id": name})

    def _validate(self, asked: dict[str, Any]) -> None:
        """As the Hub does before a README.md is committed: is its front matter YAML?"""
        import yaml

        try:
            found = yaml.safe_load(asked["content"].split("---")[1])
            errors = [] if isinstance(found, dict) else [{"message": "no mapping"}]
        except yaml.YAMLError as error:
            errors = [{"message": str(error)}]
        self._answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {
                "oid": item["oid"],
                "size": item["size"],
                "actions": {"upload": {"href": f"{self.state.url}/lfs/{item['oid']}"}},
            }
            for item in asked["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, repo: str, branch: str, body: bytes) -> None:
        for text in body.splitlines():
            line = json.loads(text)
            value = line["value"]
            if line["key"] == "file":
                self.state.repos[repo][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.state.repos[repo][value["path"]] = self.state.objects[value["oid"]]
        self.state.commits.append((repo, branch))
        answer = {"commitUrl": f"{self.state.url}/{repo}/commit/1", "commitOid": "1" * 40}
        self._answer(200, {"success": True, **answer})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        del format, arguments
