"""Fetching from addresses: off unless allowed, and never from inside the server's network."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving import Served, new_model, sample, serving, text_only

from castor.content import Image, Message, Text
from castor.models.codec import ImageCodec
from castor.models.config import ModelConfig
from castor.server.fetch import Fetcher, FetchError, check_public
from castor.tokens.render import Renderer


class Site(http.server.BaseHTTPRequestHandler):
    """A few addresses with good and bad content."""

    def do_GET(self) -> None:
        if self.path == "/slow":
            with contextlib.suppress(ConnectionError):
                for _ in range(100):
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nx")
                    time.sleep(0.05)
            return
        target = {"/away": "http://10.0.0.7/x", "/loop": "/loop", "/file": "file:///etc/passwd", "/next": "/a.png"}
        if self.path in target:
            self.send_response(302)
            self.send_header("location", target[self.path])
            self.end_headers()
            return
        self.send_response(200 if self.path in ("/a.png", "/large") else 404)
        self.send_header("content-type", "image/png; x=y")
        self.end_headers()
        self.wfile.write(sample("scene.png") if self.path == "/a.png" else bytes(2_000_000))

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def local_or_public(address: str) -> None:
    if address != "127.0.0.1":
        check_public(address)


@pytest.fixture(scope="module")
def fetcher(port: int) -> Fetcher:
    """One that may also ask this machine, so that there is something to ask."""
    return Fetcher(max_bytes=1_000_000, allowed_ports=(80, 443, port), check=local_or_public, timeout_s=1.0)


def test_content_and_redirects(fetcher: Fetcher, port: int) -> None:
    for path in ("a.png", "next"):
        assert fetcher.fetch(f"http://127.0.0.1:{port}/{path}") == (sample("scene.png"), "image/png")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("away", "10.0.0.7 is not a public address"),
        ("loop", "more than 3 redirects"),
        ("file", "only http"),
        ("missing", "404"),
        ("large", "more than the 1000000 bytes"),
        ("slow", "not done within|127.0.0.1"),
    ],
)
def test_what_is_refused(fetcher: Fetcher, port: int, path: str, message: str) -> None:
    began_s = time.monotonic()
    with pytest.raises(FetchError, match=message):
        fetcher.fetch(f"http://127.0.0.1:{port}/{path}")
    assert time.monotonic() - began_s < 4


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://169.254.169.254/latest/meta-data",
        "http://192.168.1.1/",
        "http://100.64.0.1/",
        "http://0.0.0.0/",
        "http://224.0.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://user:word@8.8.8.8/",
        "http://8.8.8.8:22/",
        "http://8.8.8.8:99999/",
        "ftp://8.8.8.8/",
        "http:///x",
        "http://8.8.8.8/a b",
        "http://exa\u00admple/",
    ],
)
def test_addresses_inside_are_never_asked(url: str) -> None:
    with pytest.raises(FetchError):
        Fetcher(max_bytes=10).fetch(url)


def test_a_name_is_resolved_once_and_every_address_checked(port: int) -> None:
    """The DNS says something else the second time; the connection goes where the check was."""
    answers = iter([["127.0.0.1"], ["10.0.0.7"]])
    options: dict[str, Any] = {"max_bytes": 1_000_000, "allowed_ports": (port,), "check": local_or_public}
    once = Fetcher(resolve=lambda host, _: next(answers), **options)
    assert once.fetch(f"http://rebound.example:{port}/a.png")[0] == sample("scene.png")
    with pytest.raises(FetchError, match="10.0.0.7"):
        once.fetch(f"http://rebound.example:{port}/a.png")
    mixed = Fetcher(resolve=lambda host, _: ["127.0.0.1", "192.168.0.1"], **options)
    with pytest.raises(FetchError, match="192.168.0.1"):
        mixed.fetch(f"http://mixed.example:{port}/a.png")


SETTINGS = {"allows_fetch": True}


def ask(served: Served, url: str) -> tuple[httpx.Response, httpx.Response]:
    """Both APIs are asked about a picture at an address."""
    image = {"type": "image_url", "image_url": {"url": url}}
    content = [{"type": "text", "text": "red"}, image]
    chat = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
    parts = [{"text": "red"}, {"fileData": {"fileUri": url}}]
    asked = {"contents": [{"parts": parts}], "generationConfig": {"responseModalities": ["TEXT"]}}
    return (
        httpx.post(f"{served.url}/v1/chat/completions", json=chat, timeout=60),
        httpx.post(f"{served.url}/v1beta/models/tiny:generateContent", json=asked, timeout=60),
    )


def test_both_apis(served: Served, fetcher: Fetcher, port: int) -> None:
    url = f"http://127.0.0.1:{port}/a.png"
    for reply in ask(served, url):
        assert reply.status_code == 400 and "ports" in reply.json()["error"]["message"]
    for reply in ask(served, "http://127.0.0.1/a.png"):
        assert reply.status_code == 400 and "not a public address" in reply.json()["error"]["message"]
    kept, served.service.fetcher = served.service.fetcher, fetcher
    try:
        chat, generated = ask(served, url)
    finally:
        served.service.fetcher = kept
    wanted = text_only(served, Message.user(Text("red"), Image(sample("scene.png")))).text
    assert chat.json()["choices"][0]["message"]["content"] == wanted
    assert generated.json()["candidates"][0]["content"]["parts"][0]["text"] == wanted


def test_a_page_from_elsewhere_may_ask_only_where_allowed(
    tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec
) -> None:
    """A browser asks first, without a key; the answer's headers let the page read the upload's address."""
    asked = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-goog-api-key,content-type",
    }
    model = new_model(tiny_config, renderer, codec)
    with serving(model, keys=("secret",), cors=("https://app.example",)) as served:
        url = f"{served.url}/v1beta/models/tiny:countTokens"
        first = httpx.options(url, headers=asked)
        assert first.status_code == 200
        assert first.headers["access-control-allow-origin"] == "https://app.example"
        assert "x-goog-api-key" in first.headers["access-control-allow-headers"]
        body = {"contents": [{"parts": [{"text": "a"}]}]}
        headers = {"origin": "https://app.example", "x-goog-api-key": "secret"}
        reply = httpx.post(url, json=body, headers=headers)
        assert reply.status_code == 200 and reply.headers["access-control-allow-origin"] == "https://app.example"
        assert "x-goog-upload-url" in reply.headers["access-control-expose-headers"]
        refused = httpx.post(url, json=body, headers={"origin": "https://app.example"})
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "https://app.example"
        other = httpx.options(url, headers={**asked, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
