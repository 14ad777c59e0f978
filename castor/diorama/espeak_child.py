"""The child process that speaks: eSpeak NG behind a pipe, so that its library never enters our own process.

eSpeak NG is GPL-3 and keeps global state, so it lives alone here. This file is started by path with an
isolated interpreter and imports the standard library only; nothing else of the project imports it.

Wire format, both ways: a 4-byte little-endian length, then that many bytes. Request: JSON
{"text", "voice", "rate_wpm", "pitch", "range"}. Answer: one status byte ("+" or "-"), then 16-bit mono
samples, or the error's text. Right after starting, the child sends its sample rate as a text answer.

Every sentence is spoken by a fork that has not spoken before: the library carries noise and vibrato from one
sentence to the next, and a sentence's samples must not depend on what was said earlier.
"""

import contextlib
import ctypes
import json
import os
import select
import struct
import sys

SYNCHRONOUS, UTF8, CHARACTER_POSITION = 2, 1, 1
RATE, PITCH, RANGE = 1, 3, 4
SPOKEN = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


def open_library(library_path: str, data_path: str) -> tuple[ctypes.CDLL, int]:
    """The initialised library and its sample rate."""
    library = ctypes.CDLL(library_path)
    rate_hz = library.espeak_Initialize(SYNCHRONOUS, 0, data_path.encode(), 0)
    if rate_hz <= 0:
        raise OSError(f"eSpeak NG did not start with data {data_path!r} (code {rate_hz})")
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # else breath noise is seeded by the clock
    return library, rate_hz


def speak(library: ctypes.CDLL, request: dict) -> bytes:
    """16-bit mono samples of one request."""
    samples = bytearray()

    @SPOKEN
    def collect(wave: int | None, num_samples: int, _events: int | None) -> int:
        if wave and num_samples > 0:
            samples.extend(ctypes.string_at(wave, 2 * num_samples))
        return 0

    library.espeak_SetSynthCallback(collect)
    if library.espeak_SetVoiceByName(request["voice"].encode()) != 0:
        raise ValueError(f"no such voice: {request['voice']!r}")
    for parameter, value in (
        (RATE, request["rate_wpm"]),
        (PITCH, request["pitch"]),
        (RANGE, request["range"]),
    ):
        library.espeak_SetParameter(parameter, value, 0)
    text = request["text"].encode() + b"\0"
    size = ctypes.c_size_t(len(text))
    if library.espeak_Synth(text, size, 0, CHARACTER_POSITION, 0, UTF8, None, None) != 0:
        raise ValueError(f"could not speak {request['text']!r}")
    return bytes(samples)


def speak_in_fork(library: ctypes.CDLL, request: dict) -> bytes:
    """The answer (status byte and body), made by a fork of this process."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        try:
            answer = b"+" + speak(library, request)
        except (ValueError, KeyError, TypeError, ctypes.ArgumentError) as error:
            answer = b"-" + f"{type(error).__name__}: {error}".encode()
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(answer)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer or b"-the synthesiser died while speaking"


def read_exactly(num_bytes: int, parent_pid: int) -> bytes:
    """That many bytes of standard input; leaves the process when the parent is gone."""
    data = b""
    while len(data) < num_bytes:
        ready, _, _ = select.select([0], [], [], 2.0)
        chunk = os.read(0, num_bytes - len(data)) if ready else b""
        if (ready and not chunk) or os.getppid() != parent_pid:
            sys.exit(0)
        data += chunk
    return data


def send(answer: bytes) -> None:
    """One answer to standard output."""
    sys.stdout.buffer.write(struct.pack("<I", len(answer)) + answer)
    sys.stdout.buffer.flush()


def main() -> None:
    """Answers requests until standard input closes."""
    parent_pid = os.getppid()
    library, rate_hz = open_library(sys.argv[1], sys.argv[2])
    send(b"+" + str(rate_hz).encode())
    while True:
        (num_bytes,) = struct.unpack("<I", read_exactly(4, parent_pid))
        send(speak_in_fork(library, json.loads(read_exactly(num_bytes, parent_pid))))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        main()
