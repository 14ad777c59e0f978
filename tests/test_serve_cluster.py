"""Two replicas behind Ray Serve; one is killed under load, and no request is lost without an error."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from serving import new_model

from castor.models.codec import ImageCodec
from castor.models.config import ModelConfig
from castor.tokens.render import Renderer

pytest.importorskip("grpc")
pytest.importorskip("ray.serve")
pytestmark = pytest.mark.slow
SECONDS, CLIENTS = 25, 6


def replicas() -> list[int]:
    """Processes of this user's Ray Serve replicas, by what they call themselves."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::ServeReplica:castor"):
            found.append(int(folder.name))
    return found


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_one_of_two_is_killed_under_load(
    tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec, tmp_path: Path
) -> None:
    new_model(tiny_config, renderer, codec).save(tmp_path / "little")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "castor.cli", "serve", "--model", str(tmp_path / "little"), "--ray", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RAY_SERVE_LOG_TO_STDERR": "0"}
    process = subprocess.Popen([*command, "--port", str(port)], env=environment, stderr=subprocess.DEVNULL)
    outcomes: Counter[str] = Counter()
    try:
        end = time.monotonic() + 400
        while not (len(replicas()) == 2 and answers(url)):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(1)
        stop_s = time.monotonic() + SECONDS
        body = {"contents": [{"parts": [{"text": "how many"}]}], "generationConfig": {"maxOutputTokens": 8}}

        def ask() -> None:
            with httpx.Client(timeout=60) as http:
                while time.monotonic() < stop_s:
                    try:
                        reply = http.post(f"{url}/v1beta/models/little:generateContent", json=body)
                    except httpx.HTTPError as error:
                        outcomes[f"broken {type(error).__name__}"] += 1
                        continue
                    is_whole = reply.status_code == 200 and "finishReason" in reply.json()["candidates"][0]
                    outcomes["answered" if is_whole else f"status {reply.status_code}"] += 1

        threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        time.sleep(5)
        victim = replicas()[0]
        before = outcomes["answered"]
        os.kill(victim, signal.SIGKILL)
        for thread in threads:
            thread.join(SECONDS + 90)
        assert not any(thread.is_alive() for thread in threads), "a request never ended"
        print(dict(outcomes))
        assert before > 0 and outcomes["answered"] > before
        assert set(outcomes) <= {"answered", "status 500", "status 503"}, outcomes
        kept = httpx.get(f"{url}/v1beta/files", timeout=10)
        assert kept.status_code == 501
        end = time.monotonic() + 60
        while victim in replicas() or len(replicas()) < 2:
            assert time.monotonic() < end, "no replica took its place"
            time.sleep(1)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
