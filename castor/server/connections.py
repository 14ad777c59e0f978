"""Connections that cost nothing for long: those that never finish a request, and those that never read their answer.

A client may take its time over a body (`bodies.read_body` says how long), and an answer may take as long as it needs.
But a head that comes a letter at a time, or an answer that nobody takes, would hold a connection or a place for ever.
"""

from __future__ import annotations

import asyncio
import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


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
        super().connection_made(transport)
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
