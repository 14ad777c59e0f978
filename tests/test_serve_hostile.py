"""Hundreds of malformed and hostile requests: each is refused in so many words, and the server stays well."""

from __future__ import annotations

import base64
import json
import logging
import socket
import struct
import zlib
from collections.abc import Iterator

import httpx
from serving import Served

SETTINGS = {"max_body_bytes": 2_000_000, "body_timeout_s": 5}


def png_bomb(width: int, height: int, rows: int) -> bytes:
    """A PNG file that states a size and holds `rows` rows of zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(bytes((1 + 3 * width) * rows), 9)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def wide_pdf() -> bytes:
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 900000 900000] >>"
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>", page]
    body = b"%PDF-1.4\n" + b"".join(b"%d 0 obj %s endobj\n" % (at, text) for at, text in enumerate(objects, 1))
    return body + b"trailer << /Root 1 0 R /Size 4 >>\n%%EOF"


def media() -> Iterator[tuple[str, bytes]]:
    yield "image/png", png_bomb(100_000, 100_000, 1)
    yield "image/png", png_bomb(8000, 8000, 800)
    yield "image/png", png_bomb(2**31 - 1, 1, 0)[:60]
    yield "image/png", b"\x89PNG\r\n\x1a\n"
    yield "image/gif", b"GIF89a" + b"\xff" * 40
    yield "image/jpeg", b"\xff\xd8\xff\xe0" + bytes(100)
    yield "image/webp", b"RIFF\x00\x00\x00\x00WEBPVP8 " + bytes(20)
    yield "image/svg+xml", b"<svg/>"
    yield "audio/wav", b"RIFF\xff\xff\xff\xffWAVEfmt \xff\xff\xff\xff"
    yield "audio/mpeg", b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f"
    yield "audio/L16;rate=0", b"\x00\x00"
    yield "audio/L16;rate=99999999999999999999", b"\x00\x00"
    yield "video/mp4", b"\x00\x00\x00\x18ftypisom" + bytes(40)
    yield "application/pdf", b"%PDF-1.4\n%%EOF"
    yield "application/pdf", wide_pdf()
    yield "application/pdf", b""
    yield "application/x-python-pickle", b"\x80\x04."
    yield "a" * 10_000, b"x"


def gemini_parts() -> Iterator[object]:
    for kind, data in media():
        yield {"inlineData": {"mimeType": kind, "data": base64.b64encode(data).decode()}}
    for uri in ("/etc/passwd", "file:///etc/passwd", "../../etc/passwd", "files/../../../etc/passwd", "gs://b/o"):
        yield {"fileData": {"fileUri": uri, "mimeType": "image/png"}}
    for uri in ("http://169.254.169.254/latest", "http://localhost:22/files/x", "files/nothing", "files/\x00", ""):
        yield {"fileData": {"fileUri": uri}}
    yield from (None, 1, "text", [], {}, {"text": None}, {"text": {}}, {"text": "\ud800"}, {"thought": True})
    yield from ({"functionCall": {"name": "f"}}, {"functionResponse": 7}, {"inlineData": []}, {"executableCode": {}})


def gemini_bodies() -> Iterator[object]:
    for part in gemini_parts():
        yield {"contents": [{"parts": [part]}]}
    fine = {"contents": [{"parts": [{"text": "x"}]}]}
    for value in (float("1e400"), "NaN", -5, True, [], {}, "x" * 1000, 2**70):
        for key in ("temperature", "topP", "topK", "maxOutputTokens", "seed", "candidateCount", "stopSequences"):
            is_fine = value == [] or isinstance(value, str) if key == "stopSequences" else (key, value) == ("seed", -5)
            if not is_fine:
                yield {**fine, "generationConfig": {key: value}}
    yield from ({"contents": value} for value in ("x", 1, [[]], [None], [{"parts": "x"}], [{"role": [], "parts": []}]))
    yield {"contents": [{"role": {}, "parts": [{"text": "x"}]}]}
    yield from ({**fine, "systemInstruction": value} for value in (1, [], {"parts": []}, {"parts": [1]}))
    yield from ({**fine, "tools": value} for value in (1, [1], [{"functionDeclarations": 1}], [{"x" * 5000: 1}]))
    yield from ({**fine, "toolConfig": value} for value in (1, {"functionCallingConfig": {"mode": {}}}))
    yield {**fine, "generationConfig": {"responseModalities": [1]}}
    yield {**fine, "generationConfig": {"thinkingConfig": 1}}
    yield {"contents": [{"parts": [{"text": "red " * 5000}]}]}


def raw_bodies() -> Iterator[bytes]:
    yield from (b"", b"{", b"null", b"[]", b'"x"', b"{'a': 1}", b"\xff\xfe\x00", b'{"a": NaN}', b"\x00" * 100)
    yield from (b"[" * 900, b"[" * 200_000, b'{"a":' * 50_000, b'{"a":' * 80 + b"1" + b"}" * 80)
    yield from (b'{"contents": ' + b"9" * 10_000 + b"}", b"[" + b"0," * 900_000 + b"0]", b"{}" * 10, b" " * 2_000_001)
    yield b'{"contents": [{"parts": [{"text": "\xc3\x28"}]}]}'


def chat_bodies() -> Iterator[object]:
    def asked(content: object, **more: object) -> dict:
        return {"model": "tiny", "messages": [{"role": "user", "content": content}], **more}

    for kind, data in media():
        uri = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        yield asked([{"type": "image_url", "image_url": {"url": uri}}])
    for url in ("http://127.0.0.1:22/", "file:///etc/passwd", "data:", "data:,", "data:image/png;base64,@@", ""):
        yield asked([{"type": "image_url", "image_url": {"url": url}}])
    for part in (None, 1, {}, {"type": []}, {"type": "text", "text": 1}, {"type": "input_audio", "input_audio": {}}):
        yield asked([part])
    yield asked([{"type": "input_audio", "input_audio": {"data": "aGk=", "format": "../x"}}])
    for key in ("temperature", "top_p", "n", "max_tokens", "seed", "stop", "stream", "tools", "modalities"):
        yield asked("x", **{key: {"a": [1]}})
    for call in (
        1,
        [1],
        [{"function": 1}],
        [{"function": {"name": "f", "arguments": "{"}}],
        [{"id": {}, "function": {}}],
    ):
        yield {"model": "tiny", "messages": [{"role": "assistant", "content": "x", "tool_calls": call}]}
    yield from ({"model": value, "messages": []} for value in (None, 1, {}, "../../tiny", "x" * 5000))
    yield asked("x", stream_options=[1])


PATHS = [
    *("/v1/models/..%2f..%2fetc%2fpasswd", "/v1/models/%00", "/v1/models/" + "a" * 5000, "/v1/models/tiny:"),
    *("/v1/models/:generateContent", "/v1/models//:x", "/v1//models", "/v1/files/..%2f..%2fetc%2fpasswd"),
    *("/v1/files/%2e%2e", "/v1/files/.part", "/v1/files/x.json", "/v1/files/files/files/x", "/v1/files/%ff%fe"),
    *(
        "/v1/files/:download",
        "/upload/session/",
        "/upload/session/x",
        "/upload/session/%2e%2e%2fx",
        "/upload/v1/files/x",
    ),
    *("/%2e%2e/%2e%2e/etc/passwd", "/static/x", "/redoc", "/.env", "/admin", "/v1"),
    *("/v1/models?pageSize=x", "/v1/models?pageToken=-1", "/v1/models?pageSize=99999999999999999999", "/v9/models"),
    *("/v1/chat", "/v1/chat/completions/x", "/v1/cachedContents/x", "/ws/x", "/v1/batches/x"),
]


def requests() -> Iterator[tuple[str, str, dict[str, str], bytes]]:
    """Method, path, headers and body."""
    methods = ("generateContent", "streamGenerateContent?alt=sse", "countTokens")
    for at, body in enumerate(gemini_bodies()):
        yield "POST", f"/v1beta/models/tiny:{methods[at % 3]}", {}, json.dumps(body).encode()
    for request in (None, 1, [], {}, {"contents": None}):
        yield "POST", "/v1/models/tiny:countTokens", {}, json.dumps({"generateContentRequest": request}).encode()
    for body in chat_bodies():
        yield "POST", "/v1/chat/completions", {}, json.dumps(body).encode()
    start = {"x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start"}
    for body in raw_bodies():
        yield "POST", "/v1/models/tiny:generateContent", {}, body
        yield "POST", "/v1/chat/completions", {}, body
        if body:
            yield "POST", "/upload/v1/files", start, body
    for path in PATHS:
        for method in ("GET", "POST", "DELETE"):
            if method == "GET" or "?" not in path:
                yield method, path, {}, b"{}" if method == "POST" else b""
    fine = json.dumps({"contents": [{"parts": [{"text": "x"}]}]}).encode()
    for stated in ("-1", "x", "0", "1e999", "nan"):
        yield "POST", "/v1/models/tiny:generateContent", {"x-server-timeout": stated}, fine
    yield "PATCH", "/v1/models/tiny", {}, b""
    yield "TRACE", "/v1/models", {}, b""


RAW = [
    b"GARBAGE\r\n\r\n",
    b"GET /healthz HTTP/nine\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"POST /upload/v1/files HTTP/1.1\r\nHost: a b<>\r\nX-Goog-Upload-Protocol: resumable\r\n"
    b"X-Goog-Upload-Command: start\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Filler: " + b"a" * 200_000 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


class Tracebacks(logging.Handler):
    """Collects log records that carry an exception."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(record.getMessage())


def test_hostile_requests_are_refused(served: Served) -> None:
    tracebacks = Tracebacks()
    logging.getLogger("uvicorn.error").addHandler(tracebacks)
    wrong, count = [], 0
    with httpx.Client(base_url=served.url, timeout=60) as http:
        for method, path, headers, body in requests():
            count += 1
            reply = http.request(method, path, headers=headers, content=body)
            is_refusal = 400 <= reply.status_code < 600 and reply.status_code != 500
            if not is_refusal or "Traceback" in reply.text or len(reply.content) > 4000:
                wrong.append((method, path[:80], body[:120], reply.status_code, reply.text[:200]))
            elif reply.headers["content-type"] == "application/json" and reply.json()["error"]["message"] == "":
                wrong.append((method, path[:80], body[:120], "no message"))
    for raw in RAW:
        count += 1
        said = exchange(served, raw)
        if said and not 400 <= int(said.split()[1]) < 500:
            wrong.append((raw[:80], said[:100]))
    assert not wrong, "\n".join(map(str, wrong))
    assert count >= 300
    assert tracebacks.found == []
    assert httpx.get(f"{served.url}/healthz").status_code == 200
    assert served.service.answerer.num_inside == 0
    body = {"contents": [{"parts": [{"text": "x"}]}]}
    assert httpx.post(f"{served.url}/v1/models/tiny:generateContent", json=body, timeout=60).status_code == 200


def exchange(served: Served, raw: bytes) -> bytes:
    """What the server says to these bytes, until it closes or says no more."""
    with socket.create_connection(served.socket.getsockname(), timeout=8) as connection:
        try:
            connection.sendall(raw)
            return connection.recv(65536)
        except (TimeoutError, ConnectionError):
            return b""


def test_pieces_of_an_answer_are_not_held_back(served: Served) -> None:
    """Nagle's algorithm is off on the server's side of a connection, whatever bound its socket."""
    with httpx.Client(base_url=served.url) as client:
        assert client.get("/healthz").status_code == 200
        ends = [protocol.transport.get_extra_info("socket") for protocol in served.server.server_state.connections]
        assert ends and all(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for end in ends)
