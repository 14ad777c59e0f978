"""The server as a process: start, health, measures, log, and an end that breaks nothing off."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from serving import Served, new_model, serving, wait_until

from castor.cli import main
from castor.models.codec import ImageCodec
from castor.models.config import ModelConfig
from castor.server.config import ServerConfig
from castor.server.keys import Keys
from castor.tokens.render import Renderer

SETTINGS = {"keys": ("secret",)}


def figures(served: Served) -> dict[str, float]:
    page = httpx.get(f"{served.url}/metrics", headers={"authorization": "Bearer secret"})
    assert page.status_code == 200
    lines = [line for line in page.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_health_and_measures(served: Served) -> None:
    assert httpx.get(f"{served.url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{served.url}/readyz").json() == {"status": "ready"}
    assert httpx.get(f"{served.url}/metrics").status_code == 401
    body = {"contents": [{"parts": [{"text": "x"}]}], "generationConfig": {"responseModalities": ["TEXT"]}}
    url = f"{served.url}/v1/models/tiny:generateContent?key=secret"
    before = figures(served)
    reply = httpx.post(url, json=body, timeout=60)
    httpx.post(url, json={}, timeout=60)
    used = reply.json()["usageMetadata"]
    after = figures(served)

    def grown(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    assert grown('castor_requests_total{route="generateContent",status="200"}') == 1
    assert grown('castor_requests_total{route="generateContent",status="400"}') == 1
    assert grown('castor_tokens_total{direction="prompt",modality="TEXT"}') == used["promptTokenCount"]
    assert grown('castor_tokens_total{direction="answer",modality="TEXT"}') == used["candidatesTokenCount"] == 12
    assert grown("castor_first_part_seconds_count") == 1
    assert after["castor_requests_inside"] == 0
    assert re.fullmatch("[0-9a-f]{16}", reply.headers["x-request-id"])


def test_no_new_requests_while_draining(served: Served) -> None:
    served.service.is_draining = True
    try:
        assert httpx.get(f"{served.url}/healthz").status_code == 200
        assert httpx.get(f"{served.url}/readyz").status_code == 503
        refused = httpx.get(f"{served.url}/v1/models?key=secret")
        assert (refused.status_code, refused.json()["error"]["status"]) == (503, "UNAVAILABLE")
    finally:
        served.service.is_draining = False


def test_a_process_from_start_to_end(
    tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec, tmp_path: Path
) -> None:
    new_model(tiny_config, renderer, codec).save(tmp_path / "little")
    command = [
        sys.executable,
        "-m",
        "castor.cli",
        "serve",
        "--model",
        str(tmp_path / "little"),
        "--port",
        "0",
        "--cache",
        "int8",
    ]
    environment = {**os.environ, "CASTOR_API_KEY": "secret", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        lines: list[str] = []
        assert process.stderr is not None
        reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
        reader.start()
        try:
            wait_until(lambda: any("castor serves" in line for line in lines), 240)
            [first] = [line for line in lines if "castor serves" in line]
            url = re.search(r"http://127\.0\.0\.1:\d+", first).group()
            assert "little" in first
            wait_until(lambda: answers(url), 120)
            body = {
                "contents": [{"parts": [{"text": "the private words"}]}],
                "generationConfig": {"maxOutputTokens": 400, "responseModalities": ["TEXT"], "temperature": 1},
            }
            address = f"{url}/v1beta/models/little:streamGenerateContent?alt=sse&key=secret"
            with httpx.stream("POST", address, json=body, timeout=120) as reply:
                pieces = reply.iter_lines()
                next(pieces)
                process.send_signal(signal.SIGTERM)
                events = [json.loads(line[6:]) for line in pieces if line.startswith("data: ")]
            assert events[-1]["candidates"][0]["finishReason"] in ("STOP", "MAX_TOKENS")
            assert process.wait(60) == 0
        finally:
            process.kill()
        reader.join(10)
    told = "".join(lines)
    assert "private" not in told and "secret" not in told
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    assert [line["status"] for line in logged if line.get("route") == "streamGenerateContent"] == [200]


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_mistakes_on_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# nobody\n")
    for arguments, told in [
        (["--port", "99999"], "cannot listen on 127.0.0.1:99999"),
        (["--alias", "two words"], "'two words'"),
        (["--api-key-file", str(tmp_path / "keys")], "no key in this file"),
        (["--api-key", "sha256:short"], "64 hexadecimal"),
        (["--port", "0", "--model", "nothing-at-all"], "nothing-at-all"),
    ]:
        assert main(["serve", *arguments]) == 2
        assert told in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    assert "genai.Client" in capsys.readouterr().out


def test_keys_are_kept_as_digests(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# mine\nfirst\n\nsecond\n")
    keys = Keys.of_file(tmp_path / "keys", ["third"])
    assert len(keys) == 3
    assert not any(key in repr(vars(keys)) for key in ("first", "second", "third"))
    with pytest.raises(ValueError, match="must not be empty"):
        Keys([""])


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="max_waiting=0"):
        ServerConfig(max_waiting=0)
    assert ServerConfig(name="a", aliases=("b", "a")).names == ("a", "b")


def test_keys_with_scopes_and_rates(tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec) -> None:
    lines = ("all", "vec scopes=vectors,metrics", "slow rate=2 scopes=answers")
    with serving(new_model(tiny_config, renderer, codec), keys=lines) as served:

        def status(key: str, path: str, body: object = None) -> int:
            method = "GET" if body is None else "POST"
            return httpx.request(method, f"{served.url}{path}", json=body, headers={"x-goog-api-key": key}).status_code

        count, contents = "/v1beta/models/tiny:countTokens", {"contents": [{"parts": [{"text": "a"}]}]}
        assert status("all", count, contents) == 200
        assert status("vec", count, contents) == 403 and status("vec", "/v1/files") == 403
        assert status("vec", "/v1/models/tiny:embedContent", {"content": contents["contents"][0]}) == 400
        assert status("vec", "/metrics") == 200 and status("slow", "/metrics") == 403
        assert [status("slow", count, contents) for _ in range(3)] == [200, 200, 429]
        assert status("all", "/v1/models") == 200 and status("vec", "/v1/models/tiny") == 200
    for wrong in ("key rate=0", "key scopes=everything", "key until=tomorrow", " "):
        with pytest.raises(ValueError):
            Keys([wrong])


def test_a_rate_fills_up_again() -> None:
    from starlette.requests import HTTPConnection

    from castor.server.errors import ApiError

    now = [0.0]
    keys = Keys(["key rate=60"], clock=lambda: now[0])
    scope = {"type": "http", "path": "/v1/models", "headers": [(b"x-goog-api-key", b"key")], "query_string": b""}

    def passed(times: int) -> int:
        count = 0
        for _ in range(times):
            try:
                keys.owner(HTTPConnection(scope))
                count += 1
            except ApiError as error:
                assert error.status == 429 and error.retry_after_s is not None and error.retry_after_s <= 1
        return count

    assert passed(100) == 60
    now[0] += 5
    assert passed(100) == 5
