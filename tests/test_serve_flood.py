"""Ten thousand hostile requests against a server process: all refused, memory flat, and well afterwards."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import re
import socket
import string
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Served, new_model, sample, serving, wait_until
from test_serve_hostile import chat_bodies, gemini_bodies, media

from castor.models.codec import ImageCodec
from castor.models.config import ModelConfig
from castor.server.connections import PatientUpTo
from castor.tokens.render import Renderer

COUNT = int(os.environ.get("CASTOR_FLOOD", "10000"))
JUNK: tuple[Any, ...] = (True, -1, 2**80, [], [[]], [None])
Hostile = tuple[str, str, dict[str, str], bytes]  # method, path, headers, body
GENERATE = "/v1beta/models/tiny:generateContent"


def wrong_type(rng: random.Random) -> Hostile:
    """A known field that holds something of another type."""
    config = {"temperature": 1, "topP": 0.5, "topK": 3, "seed": 1, "maxOutputTokens": 3, "stopSequences": ["x"]}
    body: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "x"}]}], "generationConfig": config}
    spot = rng.choice(("contents", "parts", "part", "role", "config", "systemInstruction"))
    bad = rng.choice(JUNK)
    if spot == "contents":
        body["contents"] = rng.choice((True, -1, [], [True], [-1], [[]]))
    elif spot == "parts":
        body["contents"][0]["parts"] = rng.choice((True, -1, [], [True], [[]], "text"))
    elif spot == "part":
        body["contents"][0]["parts"][0] = {rng.choice(("text", "inlineData", "functionCall", "fileData")): bad}
    elif spot == "role":
        body["contents"][0]["role"] = rng.choice((True, -1, [], {}, "assistant", "x" * 3000))
    elif spot == "config":
        config[rng.choice(("temperature", "topP", "topK", "maxOutputTokens"))] = rng.choice((True, [], {}, -5, "x"))
    else:
        body[spot] = rng.choice((True, -1, [], {}, {"parts": []}, {"parts": [-1]}))
    return "POST", GENERATE, {}, json.dumps(body).encode()


def unknown_field(rng: random.Random) -> Hostile:
    """A field that nobody knows, at any height, which must not be dropped in silence."""
    name = "".join(rng.choices(string.ascii_letters + "_-$.", k=rng.choice((9, 40, 2000)))) + "Zq"
    body: dict[str, Any] = {"contents": [{"parts": [{"text": "x"}]}], "generationConfig": {}}
    rng.choice((body, body["contents"][0], body["contents"][0]["parts"][0], body["generationConfig"]))[name] = 1
    return "POST", GENERATE, {}, json.dumps(body).encode()


def damaged_json(rng: random.Random) -> Hostile:
    """Bytes cut, doubled, flipped or spliced until they are no JSON any more."""
    whole = json.dumps({"contents": [{"parts": [{"text": "größer " * 20}]}]}, ensure_ascii=False).encode()
    while True:
        at, body = rng.randrange(1, len(whole)), bytearray(whole)
        body = (body[:at], body[:at] + body, body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :])[rng.randrange(3)]
        try:
            json.loads(bytes(body))
        except (ValueError, RecursionError):
            return "POST", rng.choice((GENERATE, "/v1/chat/completions")), {}, bytes(body)


def deep(rng: random.Random) -> Hostile:
    """Lists in lists and objects in objects, a little or far too deep."""
    depth = rng.choice((65, 66, 100, 1000, 20_000))
    opened, closed = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    inner = opened * depth + b"1" + closed * depth * rng.randrange(2)
    body = b'{"contents":' + inner + b"}" * rng.randrange(2)
    return "POST", rng.choice((GENERATE, "/v1/chat/completions")), {}, body


def broken_media(rng: random.Random) -> Hostile:
    """A real file that was cut or overwritten, or another kind of file than it says."""
    name, kind = rng.choice(
        (
            ("scene.png", "image/png"),
            ("speech.wav", "audio/wav"),
            ("clip.mp4", "video/mp4"),
            ("page.pdf", "application/pdf"),
        )
    )
    data = bytearray(sample(name))
    spoilt = rng.randrange(3)
    if spoilt == 0:
        data = data[: rng.randrange(1, 24)]
    elif spoilt == 1:
        data[:64] = rng.randbytes(64)
    else:
        kind, data = rng.choice([(kind, bytearray(found)) for kind, found in media()])
    part = {"inlineData": {"mimeType": kind, "data": base64.b64encode(bytes(data)).decode()}}
    body = {"contents": [{"parts": [part, {"text": "x"}]}]}
    return (
        "POST",
        GENERATE.replace("generateContent", rng.choice(("generateContent", "countTokens"))),
        {},
        json.dumps(body).encode(),
    )


def path_trick(rng: random.Random) -> Hostile:
    """Ways out of a folder, into other schemes, and names that are none."""
    climb = "/".join(
        rng.choices(("..", "%2e%2e", "..%2f", "%252e%252e", ".%2e", "%c0%ae%c0%ae", "....", "%5c..", "..;"), k=4)
    )
    goal = rng.choice(("etc/passwd", "%00", "app.py", "keys", "proc/self/environ", "C:%5cwindows", "~root", "a" * 4000))
    root = rng.choice(
        (
            "/v1/models/",
            "/v1/files/",
            "/v1beta/files/",
            "/upload/session/",
            "/playground/",
            "/",
            "/v1beta/openai/",
            "/static/",
        )
    )
    method = rng.choice(("GET", "GET", "POST", "DELETE", "PUT", "PATCH", "PROPFIND"))
    return method, f"{root}{climb}/{goal}", {}, b"{}" if method == "POST" else b""


def header_trick(rng: random.Random) -> Hostile:
    """Too many headers, too long ones, and values that mean nothing."""
    body = b'{"contents": []}'
    kind = rng.randrange(4)
    if kind == 0:
        headers = {"x-filler": "a" * rng.choice((8_000, 30_000, 60_000))}
    elif kind == 1:
        headers = {f"x-{number}": "y" * 100 for number in range(rng.choice((80, 300)))}
    elif kind == 2:
        headers = {"x-server-timeout": rng.choice(("-1", "x", "0", "1e999", "nan", "9" * 400))}
        body = b'{"contents": [{"parts": [{"text": "x"}]}]}'
    else:
        headers = {"content-type": "a" * 5000, "content-encoding": "gzip", "cookie": ";" * 5000}
    return "POST", GENERATE, headers, body


def upload_trick(rng: random.Random) -> Hostile:
    """Uploads that claim too much, go on where nothing began, or mix the commands up."""
    headers = {
        "x-goog-upload-protocol": rng.choice(("resumable", "raw", "")),
        "x-goog-upload-command": rng.choice(("begin", "start, finalize, start", "", "x" * 500)),
        "x-goog-upload-header-content-length": rng.choice(("-1", "x", "9" * 30)),
    }
    return "POST", rng.choice(("/upload/v1beta/files", "/upload/session/" + "Z" * 43)), headers, b"{}"


def known_bad(rng: random.Random, pool: list[Hostile] = []) -> Hostile:  # noqa: B006  # made once
    """One of the requests of test_serve_hostile, by either API."""
    if not pool:
        pool += [("POST", GENERATE, {}, json.dumps(body).encode()) for body in gemini_bodies()]
        pool += [("POST", "/v1/chat/completions", {}, json.dumps(body).encode()) for body in chat_bodies()]
    return rng.choice(pool)


KINDS: tuple[Callable[[random.Random], Hostile], ...] = (
    *(wrong_type, unknown_field, damaged_json, deep, broken_media, path_trick, header_trick, upload_trick, known_bad),
)


@pytest.fixture(scope="module")
def process(
    tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, int, list[str]]]:
    """Address, process id and log of `castor serve` with the tiny model."""
    folder = tmp_path_factory.mktemp("flood") / "tiny"
    new_model(tiny_config, renderer, codec).save(folder)
    command = [sys.executable, "-m", "castor.cli", "serve", "--model", str(folder), "--port", "0", "--name", "tiny"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as running:
        lines: list[str] = []
        threading.Thread(target=lambda: lines.extend(running.stderr or ()), daemon=True).start()
        try:
            wait_until(lambda: any("castor serves" in line for line in lines), 600)
            [first] = [line for line in lines if "castor serves" in line]
            yield re.search(r"http://127\.0\.0\.1:\d+", first).group(), running.pid, lines
        finally:
            running.kill()


def resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def answers(url: str) -> bool:
    """Whether an honest question is answered."""
    body = {"contents": [{"parts": [{"text": "x"}]}], "generationConfig": {"maxOutputTokens": 4}}
    reply = httpx.post(f"{url}{GENERATE}", json=body, timeout=300)
    return reply.status_code == 200 and bool(reply.json()["candidates"])


@pytest.mark.slow
def test_ten_thousand_hostile_requests(process: tuple[str, int, list[str]]) -> None:
    url, pid, lines = process
    rng, wrong, memory = random.Random(7), [], []
    counts: Counter[tuple[str, int]] = Counter()
    assert answers(url)
    with httpx.Client(base_url=url, timeout=300) as http:
        for number in range(COUNT):
            make = KINDS[number % len(KINDS)]
            method, path, headers, body = make(rng)
            try:
                reply = http.request(method, path, headers=headers, content=body)
            except httpx.RemoteProtocolError:  # the connection was closed in the face of an impossible request
                counts[make.__name__, 0] += 1
                continue
            counts[make.__name__, reply.status_code] += 1
            if not (400 <= reply.status_code < 500 or reply.status_code == 501) or len(reply.content) > 4000:
                wrong.append((make.__name__, method, path[:120], body[:200], reply.status_code, reply.text[:200]))
            if number % (COUNT // 20) == 0:
                memory.append(resident_mib(pid))
    assert not wrong, f"{len(wrong)} were not refused:\n" + "\n".join(map(str, wrong[:20]))
    assert counts[("header_trick", 0)] + sum(n for (_, status), n in counts.items() if status == 0) < COUNT // 50
    settled, last = max(memory[4:8]), max(memory[-4:])
    assert last < 1.05 * settled, memory
    assert answers(url)
    assert not [line for line in lines if "Traceback" in line or '"exception"' in line]
    print(
        f"\n{COUNT} requests: {sum(counts.values())} answered, memory {settled:.0f} -> {last:.0f} MiB, {dict(counts)}"
    )


@pytest.mark.slow
def test_connections_that_dribble_do_not_keep_others_out(
    tiny_config: ModelConfig, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads of a letter at a time, heads that never begin, bodies that never end: 100 of each, and an honest client."""
    monkeypatch.setattr(PatientUpTo, "head_s", 6.0)
    with serving(new_model(tiny_config, renderer, None), body_timeout_s=6) as served:
        asyncio.run(dribble(served))
        assert answers(served.url)


async def dribble(served: Served) -> None:
    address = served.socket.getsockname()
    open_head = b"POST /v1beta/models/tiny:generateContent HTTP/1.1\r\nHost: a\r\nX-Filler: "
    open_body = b"POST /v1beta/models/tiny:generateContent HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{"

    async def slow(first: bytes) -> float:
        """Seconds until the server closes a connection on which a byte comes each half second."""
        reader, writer = await asyncio.open_connection(*address)
        started = time.monotonic()
        writer.write(first)
        closed = asyncio.create_task(reader.read())
        while not (await asyncio.wait({closed}, timeout=0.5))[0]:
            if first:
                writer.write(b"a")
        writer.close()
        return time.monotonic() - started

    async def honest() -> float:
        async with httpx.AsyncClient(base_url=served.url, timeout=300) as http:
            await asyncio.sleep(1)
            started = time.monotonic()
            assert (await http.get("/healthz")).status_code == 200
            return time.monotonic() - started

    many = [slow(first) for first in (open_head, b"", open_body) for _ in range(100)]
    *lasted, waited = await asyncio.gather(*many, honest())
    assert max(lasted) < 120  # with idle processors 6 s each, and a few for bodies of refused requests
    assert waited < 60


def test_a_head_must_come_and_an_answer_must_be_read(
    tiny_config: ModelConfig, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatientUpTo, "head_s", 0.5)

    async def end_of(served: Served, *pieces: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*served.socket.getsockname())
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.1)
        said = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return said

    with serving(new_model(tiny_config, renderer, None)) as served:
        assert asyncio.run(end_of(served)).startswith(b"HTTP/1.1 408")
        assert asyncio.run(end_of(served, b"GET /hea")).startswith(b"HTTP/1.1 408")
        whole = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
        said = asyncio.run(end_of(served, whole, whole, b"GET /he"))  # two are answered, the third never comes
        assert said.count(b"HTTP/1.1 200") == 2


def test_an_answer_that_nobody_reads_is_broken_off(
    tiny_config: ModelConfig, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that stops reading in the midst of a long stream gives its place back."""
    monkeypatch.setattr(PatientUpTo, "unread_s", 0.5)
    config = {"maxOutputTokens": 4000, "temperature": 2, "responseLogprobs": True, "logprobs": 5, "candidateCount": 8}
    body = json.dumps({"contents": [{"parts": [{"text": "x"}]}], "generationConfig": config}).encode()
    path = GENERATE.replace("generateContent", "streamGenerateContent?alt=sse")
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    inside = re.compile(r"^castor_requests_inside(?:\{.*\})? 0\.0$", re.MULTILINE)
    with serving(new_model(tiny_config, renderer, None), max_tokens=4000) as served, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(served.socket.getsockname())
        client.sendall(head.encode() + body)
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        wait_until(lambda: inside.search(httpx.get(f"{served.url}/metrics").text) is not None, 240)
