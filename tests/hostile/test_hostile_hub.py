"""A Hub, an address or a token that is odd: one sentence, no traceback, no secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import click
import pytest
from fake_hub import TOKEN, fake_hub
from refusals import raises

from mergekit_fair.cli.failures import failures_told
from mergekit_fair.cli.upload import require_name, send
from mergekit_fair.errors import ConfigError
from mergekit_fair.report.publishing import Upload

JSON, HTML = "application/json", "text/html"
ANSWERS: dict[str, tuple[int, str, bytes]] = {
    "a page": (200, HTML, b"<html><body>Log in to the Wi-Fi</body></html>"),
    "nothing": (200, JSON, b""),
    "half of JSON": (200, JSON, b'{"url": "http'),
    "a list": (200, JSON, b"[1, 2]"),
    "null": (200, JSON, b"null"),
    "a number": (200, JSON, b"3"),
    "other keys": (200, JSON, b'{"uri": 1}'),
    "a number in place of an address": (200, JSON, b'{"url": 3}'),
    "bytes that are no text": (200, JSON, b"\xff\xfe\x00"),
    "deep JSON": (200, JSON, b"[" * 100_000),
    "no content": (204, JSON, b""),
    "bad request": (400, JSON, b'{"error": "\\u001b[2Jno"}'),
    "a conflict": (409, HTML, b"conflict"),
    "too large": (413, HTML, b"<h1>413</h1>"),
    "too many": (429, JSON, b"{}"),
    "an error": (500, HTML, b"<h1>oops</h1>"),
    "an error that is a list": (500, JSON, b'["oops"]'),
    "a gateway": (502, HTML, b""),
    "a redirect in a circle": (307, HTML, b""),
    "a status that is none": (799, JSON, b"{}"),
    "a teapot of nulls": (418, JSON, b'{"error": null}'),
}


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def point_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda url: monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, kind, body = self.server.answer  # type: ignore[attr-defined]
            self.send_response(status, "odd")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if status == 307:
                self.send_header("Location", self.path)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, format: str, *arguments: Any) -> None:
            del format, arguments

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


def refused(tmp_path: Path) -> str:
    """The one message of an upload that must fail."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    files: dict[str, Path | bytes] = {"model.safetensors": tmp_path / "model.safetensors"}
    with pytest.raises(click.ClickException) as caught, failures_told():
        send(Upload("---\ntags: []\n---\n", files), "me/m", private=True, revision=None)
    message = caught.value.format_message()
    assert "\n" not in message
    assert message.isprintable()
    assert "OFFLINE" not in message
    assert TOKEN not in message
    return message


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_that_is_odd(answer: Any, server: Any, point_at: Any, tmp_path: Path) -> None:
    server.answer = answer
    point_at(f"http://127.0.0.1:{server.server_port}")
    assert refused(tmp_path).startswith("me/m: ")


@pytest.mark.parametrize("step", ["preupload", "commit"])
@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"files": [{}]}'])
def test_an_answer_that_is_odd_later(
    step: str, body: bytes, point_at: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_hub() as hub:
        import fake_hub as module

        real = module._Handler.do_POST

        def answer(handler: Any) -> None:
            if f"/{step}/" not in handler.path:
                return real(handler)
            handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            return handler.wfile.write(body) and None

        monkeypatch.setattr(module._Handler, "do_POST", answer)
        point_at(hub.url)
        assert refused(tmp_path).startswith("me/m: ")
        assert hub.commits == []


def test_a_password_in_the_address_is_not_shown(point_at: Any, tmp_path: Path) -> None:
    point_at("http://me:pass%20word@127.0.0.1:1")
    message = refused(tmp_path)
    assert "pass" not in message
    assert "***@127.0.0.1:1" in message


TOKENS = {
    "a line end inside": "hf_aa\nbb cc",
    "a blank": "hf_aaaa bbbb",
    "a letter of no header": "hf_schlüssel",
    "a control": "hf_aaaa\x07",
    "a bidi mark": "hf_aaaa\u202e",
}


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
def test_a_token_that_is_odd(token: str, point_at: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    point_at("http://127.0.0.1:1")
    with raises(ConfigError, where="HF_TOKEN") as caught:
        send(Upload("", {}), "me/m", private=True, revision=None)
    assert not {word for word in token.split() if word in str(caught.value)}


@pytest.mark.parametrize("repo", ["a/b\n", "\u202ea/b", "ä/b", "a/../b", "a/b?x", "me@b/c", "//b"])
def test_names_that_are_odd(repo: str) -> None:
    with raises(ConfigError, where="REPO", got=repo):
        require_name(repo)


def test_a_token_is_never_shown() -> None:
    error = ConfigError("no", got="hf_ABCDEFGHIJKLMNOP", where="http://u:p@host/x")
    assert "ABCDEFG" not in str(error)
    assert "u:p" not in str(error)
    assert json.dumps(error.got) == '"hf_ABCDEFGHIJKLMNOP"'
