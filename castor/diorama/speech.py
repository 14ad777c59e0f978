"""Speech: sentences spoken by eSpeak NG in six languages and many voices, as 16 kHz samples.

Leaves out the synthesiser itself: it is optional (extra `synth`, GPL-3) and runs in a process of its own
(`espeak_child.py`). A sentence's samples depend on its text and voice only.
"""

import atexit
import functools
import importlib.util
import json
import os
import random
import struct
import subprocess
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RATE_HZ = 16_000
CHILD = Path(__file__).with_name("espeak_child.py")
MISSING = "speech needs eSpeak NG on a system that can fork: install the extra `synth` (package espeakng-loader)"

ACCENTS = {
    "en": ("en-us", "en"),
    "zh": ("cmn",),
    "es": ("es", "es-419"),
    "fr": ("fr",),
    "de": ("de",),
    "hi": ("hi",),
}
SEEN_VARIANTS = ("m1", "m3", "m4", "m6", "m7", "f1", "f2", "f4")
UNSEEN_VARIANTS = ("m2", "m5", "f3", "f5")  # heard in the test split only
RATES_WPM = (135, 150, 165, 180)
PITCHES = (35, 45, 55, 65)  # 0 to 99
RANGES = (35, 50, 65)  # liveliness of the melody, 0 to 99


@dataclass(frozen=True, kw_only=True)
class Voice:
    """Who speaks, and how."""

    name: str  # eSpeak NG voice and variant, such as "en-us+m3"
    rate_wpm: int = 160
    pitch: int = 50
    range: int = 50


@functools.cache
def speech_available() -> bool:
    """True where sentences can be spoken: the optional loader is installed and the system forks."""
    return hasattr(os, "fork") and importlib.util.find_spec("espeakng_loader") is not None


def draw_voice(rng: random.Random, language: str, split: str) -> tuple[Voice, bool]:
    """A voice of the language, and whether training never hears it (half of the test split)."""
    if language not in ACCENTS:
        raise ValueError(f"no voice speaks {language!r}; languages: {', '.join(ACCENTS)}")
    unseen = split == "test" and rng.random() < 0.5
    variant = rng.choice(UNSEEN_VARIANTS if unseen else SEEN_VARIANTS)
    voice = Voice(
        name=f"{rng.choice(ACCENTS[language])}+{variant}",
        rate_wpm=rng.choice(RATES_WPM),
        pitch=rng.choice(PITCHES),
        range=rng.choice(RANGES),
    )
    return voice, unseen


class Speaker:
    """One synthesiser process; safe to use from threads, after a fork, and after the process dies."""

    def __init__(self, max_cached: int = 256) -> None:
        self.max_cached = max_cached
        self._reset()

    def __reduce__(self) -> tuple:
        return (Speaker, (self.max_cached,))

    def _reset(self) -> None:
        self.owner_pid = os.getpid()
        self.child: subprocess.Popen | None = None
        self.child_rate_hz = 0
        self.lock = threading.Lock()
        self.cache: OrderedDict[tuple[str, Voice], np.ndarray] = OrderedDict()

    def say(self, text: str, voice: Voice) -> np.ndarray:
        """The sentence as float32 [S] in [-1, 1] at 16 kHz, silence at both ends cut off; read-only."""
        if not speech_available():
            raise ValueError(MISSING)
        if not text.strip() or "\0" in text:
            raise ValueError(f"nothing to say in {text!r}")
        if self.owner_pid != os.getpid():  # forked: the child and a possibly held lock belong to the parent
            if self.child is not None:
                self.child.returncode = 0  # not ours to wait for
                _close_pipes(self.child)
            self._reset()
        with self.lock:
            key = (text, voice)
            if key not in self.cache:
                self.cache[key] = _to_rate(self._ask(text, voice), self.child_rate_hz)
                if len(self.cache) > self.max_cached:
                    self.cache.popitem(last=False)
            self.cache.move_to_end(key)
            return self.cache[key]

    def close(self) -> None:
        """Ends the child process; speaking again starts a new one."""
        child, self.child = self.child, None
        if child is not None and self.owner_pid == os.getpid():
            child.kill()
            child.wait()
            _close_pipes(child)

    def _ask(self, text: str, voice: Voice) -> bytes:
        request = {"text": text, "voice": voice.name, "rate_wpm": voice.rate_wpm, "pitch": voice.pitch}
        line = json.dumps(request | {"range": voice.range}).encode()
        try:
            answer = self._exchange(line)
        except (OSError, EOFError):  # the child had died: a second one gets the same request
            try:
                answer = self._exchange(line)
            except (OSError, EOFError) as error:
                raise ValueError(f"speech: eSpeak NG stops while saying {text!r} as {voice.name}") from error
        if answer[:1] != b"+":
            raise ValueError(f"speech: {answer[1:].decode(errors='replace')}")
        return answer[1:]

    def _exchange(self, line: bytes) -> bytes:
        done = False
        try:
            child = self.child or self._start()
            assert child.stdin is not None
            child.stdin.write(struct.pack("<I", len(line)) + line)
            answer = _read_answer(child)
            done = True
        finally:  # after any break, even an interrupt, the pipe may hold half an answer
            if not done:
                self.close()
        return answer

    def _start(self) -> subprocess.Popen:
        import espeakng_loader

        command = [sys.executable, "-I", "-S", str(CHILD)]
        command += [str(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path())]
        pipe = subprocess.PIPE  # unbuffered, so that a fork holds no half-sent request
        self.child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, bufsize=0)
        atexit.unregister(self.close)
        atexit.register(self.close)
        self.child_rate_hz = int(_read_answer(self.child)[1:])
        return self.child


def _read_answer(child: subprocess.Popen) -> bytes:
    (num_bytes,) = struct.unpack("<I", _read_exactly(child, 4))
    return _read_exactly(child, num_bytes)


def _read_exactly(child: subprocess.Popen, num_bytes: int) -> bytes:
    assert child.stdout is not None
    data = bytearray()
    while len(data) < num_bytes:
        chunk = child.stdout.read(num_bytes - len(data))
        if not chunk:
            raise EOFError("the speech process ended")
        data += chunk
    return bytes(data)


def _close_pipes(child: subprocess.Popen) -> None:
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


def _to_rate(data: bytes, rate_hz: int) -> np.ndarray:
    """16-bit samples -> trimmed float32 [S] at 16 kHz."""
    import soxr

    samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    samples = soxr.resample(samples, rate_hz, RATE_HZ) if rate_hz != RATE_HZ else samples
    (loud,) = np.nonzero(np.abs(samples) > 0.003)
    if not loud.size:
        raise ValueError("speech: the synthesiser gave only silence")
    samples = np.clip(samples[loud[0] : loud[-1] + 1], -1, 1)
    samples.flags.writeable = False
    return samples


_SPEAKER = Speaker()


def say(text: str, voice: Voice) -> np.ndarray:
    """The sentence spoken by this process's speaker: float32 [S] at 16 kHz, read-only."""
    return _SPEAKER.say(text, voice)
