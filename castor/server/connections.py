"""Connections: what is sent together, and those that cost nothing for long.

The latter are those that never finish a request, and those that never read their answer.

A client may take its time over a body (`bodies.read_body` says how long), and an answer may take as long as it needs.
But a head that comes a letter at a time, or an answer that nobody takes, would hold a connection or a place for ever.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class Together:
    """A transport on which what is written in one turn of the loop goes out in one piece.

    Else the head of an answer, each of its events and its end would be sent, and would wake their reader, one by one.
    """

    MOST_BYTES = 65_536  # that are held back

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held = bytearray()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it at the end of this turn."""
        if not self._held and data:
            self._loop.call_soon(self._flush)
        self._held += data
        if len(self._held) > self.MOST_BYTES:
            self._flush()

    def close(self) -> None:
        """Send what is held, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, bytearray()
        if held and not self._transport.is_closing():
            self._transport.write(held)


class PatientUpTo(H11Protocol):
    """uvicorn's connection, with an end to its patience."""

    head_s = 20.0  # from a connection's start, or from the first byte of its next request, to the end of its head
    unread_s = 60.0  # that an answer waits until the client reads on

    _head_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The head of the first request is awaited from now on, and every piece of an answer goes out at once.

        asyncio does the latter by itself, but not for sockets that uvicorn has bound: pieces then wait for the client's
        delayed acknowledgement, 40 ms on Linux.
        """
        super().connection_made(Together(transport, self.loop))  # ty: ignore[invalid-argument-type]
        bound = transport.get_extra_info("socket")
        if bound is not None and bound.family in (socket.AF_INET, socket.AF_INET6):
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """More bytes: of a head, which does not get more time for it, or of a body."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._head_timer, self._unread_timer = _stop(self._head_timer), _stop(self._unread_timer)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        self._unread_timer = self._unread_timer or self.loop.call_later(self.unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads on."""
        self._unread_timer = _stop(self._unread_timer)
        super().resume_writing()

    def _watch_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._head_timer = _stop(self._head_timer)  # the head is there
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_s, self._give_up)

    def _give_up(self) -> None:
        if self.conn.our_state is h11.IDLE and not self.transport.is_closing():
            headers = [(b"connection", b"close"), (b"content-length", b"0")]
            self.transport.write(self.conn.send(h11.Response(status_code=408, headers=headers)) or b"")
        self.transport.close()


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
