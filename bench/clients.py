"""Streaming clients that ask again as soon as they are answered, thin enough to leave the processor to the server."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Seen:
    """What the clients of one stretch of time saw."""

    first_s: list[float] = field(default_factory=list)  # to the first token, of every answer
    tokens: int = 0
    answers: int = 0
    errors: list[str] = field(default_factory=list)
    wall_s: float = 0.0
    cpu_s: float = 0.0  # of the process that answers

    def row(self) -> dict[str, Any]:
        """As numbers for a table."""
        first = sorted(self.first_s) or [float("nan")]
        return {
            "answers": self.answers,
            "errors": len(self.errors),
            "first_p50_s": statistics.median(first),
            "first_p99_s": first[min(len(first) - 1, int(0.99 * len(first)))],
            "tokens_per_s": self.tokens / self.wall_s if self.wall_s else 0.0,
            "answers_per_s": self.answers / self.wall_s if self.wall_s else 0.0,
            "tokens_per_cpu_s": self.tokens / self.cpu_s if self.cpu_s else 0.0,
        }

    def add(self, other: Seen) -> None:
        """Another stretch of the same kind."""
        self.first_s += other.first_s
        self.errors += other.errors
        for name in ("tokens", "answers", "wall_s", "cpu_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True)
class Target:
    """A server: where it answers, and the body of a request made of one of the prompts."""

    url: str
    body: Callable[[Any], Mapping[str, Any]]
    pid: int


def cpu_s(pid: int) -> float:
    """Seconds of processor time of a process and those of its children that have ended."""
    import os

    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM and its own."""
    import os

    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def load(target: Target, prompts: Iterator[Any], *, clients: int, seconds: float) -> Seen:
    """This many clients for this long; what they have begun is finished."""
    seen, started, cpu = Seen(), time.monotonic(), cpu_s(target.pid)
    await asyncio.gather(*(_client(target, prompts, started + seconds, seen) for _ in range(clients)))
    seen.wall_s, seen.cpu_s = time.monotonic() - started, cpu_s(target.pid) - cpu
    return seen


async def _client(target: Target, prompts: Iterator[Any], until_s: float, seen: Seen) -> None:
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    place = urlsplit(target.url)
    try:
        while time.monotonic() < until_s:
            prompt, is_used = next(prompts), connection is not None
            try:
                connection = connection or await asyncio.open_connection(place.hostname, place.port)
                try:
                    await _ask(target, prompt, *connection, seen)
                except asyncio.IncompleteReadError as error:
                    if not is_used or error.partial:
                        raise
                    connection[1].close()  # a server may end a connection after some answers
                    connection = await asyncio.open_connection(place.hostname, place.port)
                    await _ask(target, prompt, *connection, seen)
            except (OSError, ValueError, KeyError, asyncio.IncompleteReadError) as error:
                seen.errors.append(f"{type(error).__name__}: {error}"[:200])
                if connection is not None:
                    connection[1].close()
                connection = None
                await asyncio.sleep(0.05)
    finally:
        if connection is not None:
            connection[1].close()


async def _ask(
    target: Target, prompt: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen
) -> None:
    place, body = urlsplit(target.url), json.dumps(target.body(prompt)).encode()
    path = place.path + (f"?{place.query}" if place.query else "")
    head = f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    started = time.monotonic()
    writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    first_s, used, pieces, ended_s = None, None, 0, 0.0
    async for event in _events(reader):
        if event == b"[DONE]":
            continue
        if b'"error"' in event[:12]:
            raise ValueError(event[:150].decode())
        ended_s = time.monotonic() - started
        used = event if b'"usage' in event else used
        if first_s is not None or _says(event):  # and does not only announce the answer, or end it
            first_s = first_s or ended_s
            pieces += 1
    if not ended_s:
        raise ValueError("an answer without a piece")
    seen.first_s.append(first_s or ended_s)
    seen.answers += 1
    seen.tokens += _tokens(used) or pieces


def _says(event: bytes) -> bool:
    """Whether a piece of an answer holds any of it, in either API's form."""
    piece = json.loads(event)
    google = [part for one in piece.get("candidates", ()) for part in one.get("content", {}).get("parts", ())]
    openai = [(one.get("delta") or {}).get("content") for one in piece.get("choices", ())]
    return any(part.get("text") or "inlineData" in part for part in google) or any(openai)


def _tokens(event: bytes | None) -> int:
    """Tokens of an answer as its last event states them, in either API's form; 0 where it does not."""
    said = json.loads(event) if event else {}
    google, openai = said.get("usageMetadata") or {}, said.get("usage") or {}
    return google.get("candidatesTokenCount") or openai.get("completion_tokens") or 0


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The data of every server-sent event of one answer in chunks. ValueError for any other answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = head.split(b" ", 2)[1]
    if status != b"200" or b"chunked" not in head.lower():
        raise ValueError(f"status {status.decode()}")
    rest = b""
    while size := int(await reader.readline(), 16):
        rest += (await reader.readexactly(size + 2))[:-2]
        *lines, rest = rest.split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                yield line[6:].strip()
    await reader.readline()


def prompts_of(asked: list[Any]) -> Iterator[Any]:
    """The prompts over and over."""
    return itertools.cycle(asked)
