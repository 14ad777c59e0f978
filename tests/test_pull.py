"""Pulling from a real HTTP server that speaks the Hub's API: dropped connections, wrong hashes, gates, full disks."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from castor.hub.cache import cache_folder, find_pulled, model_folder

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "google/tiny"
WEIGHTS = np.random.default_rng(0).integers(0, 256, 30_000_000, dtype=np.uint8).tobytes()
FILES = {
    "config.json": b'{"model_type": "gemma4_unified"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b'{"model": {}}',
    "chat_template.jinja": b"{{ messages }}",
    "pytorch_model.bin": b"cos\nsystem\n(S'touch pwned'\ntR.",
    "modeling_tiny.py": b"raise SystemExit",
    "README.md": b"# tiny",
    "onnx/model.safetensors": b"nested",
    ".hidden.json": b"{}",
}
WANTED = ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]


class Hub(ThreadingHTTPServer):
    """The Hub's answers for one model, and what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(FILES)
        self.stated: dict[str, str] = {}  # a sha256 other than the true one
        self.drop_after: list[int] = []  # bytes after which the next transfers of the weights break off
        self.stop_after: int | None = None  # bytes after which every transfer of the weights breaks off
        self.gate: tuple[int, str] | None = None
        self.elsewhere = False  # whether weights lie at another host, as on the real Hub
        self.tokens: list[tuple[str, str]] = []  # paths that came with a token
        self.requests: list[tuple[str, str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """HEAD and GET with ranges; each answer on a connection of its own."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, self.headers.get("Range", "")))
        if (token := self.headers.get("Authorization")) is not None:
            self.server.tokens.append((path, token))
        if path.startswith("/elsewhere/") or path == f"/{NAME}/resolve/{COMMIT}/{path.rsplit('/', 1)[-1]}":
            self._file(path.rsplit("/", 1)[-1], body)
        elif path in (f"/api/models/{NAME}/revision/main", f"/api/models/{NAME}/revision/{COMMIT}"):
            self._json({"id": NAME, "sha": COMMIT, "siblings": []})
        elif path.startswith(f"/api/models/{NAME}/tree/{COMMIT}"):
            self._json([self._entry(name) for name in self.server.files])
        elif path.startswith(f"/api/models/{NAME}/"):
            self._error(404, "RevisionNotFound")
        else:
            self._error(404, "RepoNotFound")

    def _entry(self, name: str) -> dict[str, object]:
        content = self.server.files[name]
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": git}
        if name.endswith((".safetensors", ".bin")):
            true = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": self.server.stated.get(name, true), "size": len(content), "pointerSize": 134}
        elif name in self.server.stated:
            entry["oid"] = self.server.stated[name]
        return entry

    def _json(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _error(self, code: int, reason: str) -> None:
        self.send_response(code)
        self.send_header("X-Error-Code", reason)
        self.send_header("X-Error-Message", f"{reason} here")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _redirect(self, name: str, content: bytes) -> None:
        self.send_response(302)
        self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/elsewhere/{name}?signed=1")
        self.send_header("X-Linked-ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, name: str, body: bool) -> None:
        if self.server.gate is not None:
            return self._error(*self.server.gate)
        content = self.server.files[name]
        if self.server.elsewhere and "/resolve/" in self.path and name.endswith(".safetensors"):
            return self._redirect(name, content)
        begin = 0
        if (asked := self.headers.get("Range")) is not None:
            begin = int(asked.removeprefix("bytes=").split("-")[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        if not body:
            return
        content = content[begin:]
        if name == "model.safetensors" and (self.server.drop_after or self.server.stop_after is not None):
            most = self.server.drop_after.pop(0) if self.server.drop_after else self.server.stop_after
            content = content[:most]
            self.close_connection = True
        self.wfile.write(content)


@pytest.fixture()
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def run(hub: Hub | str, home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, since the library reads its settings when it is imported."""
    url = hub if isinstance(hub, str) else hub.url
    settings = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    return subprocess.run(
        [sys.executable, "-m", "castor.cli", *words],
        env=kept | settings | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def mistake(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that a pull that failed ends with."""
    assert result.returncode == 2, result
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("castor: ") and "Traceback" not in result.stderr
    return last


def fetched(hub: Hub, name: str) -> list[str]:
    """The ranges in which a file was asked for."""
    return [asked for method, path, asked in hub.requests if method == "GET" and path.endswith(f"/{name}")]


def test_pull_fetches_weights_json_and_tokenizer_only(hub: Hub, tmp_path: Path) -> None:
    result = run(hub, tmp_path, "pull", NAME)
    assert result.returncode == 0, result.stderr
    folder = Path(result.stdout.strip())
    assert folder == tmp_path / "hub" / "models--google--tiny" / "snapshots" / COMMIT
    assert sorted(path.name for path in folder.iterdir()) == WANTED
    assert all((folder / name).read_bytes() == FILES[name] for name in WANTED)
    assert find_pulled(NAME, cache=tmp_path / "hub") == folder
    assert find_pulled(NAME, COMMIT, tmp_path / "hub") == folder
    assert not list(tmp_path.rglob("*.part")) and not (tmp_path / "pwned").exists()
    assert "0.03 GB in" in result.stderr
    hub.requests.clear()
    assert run(hub, tmp_path, "pull", NAME).returncode == 0
    assert not any(fetched(hub, name) for name in FILES)


def test_other_programs_find_what_was_pulled(hub: Hub, tmp_path: Path) -> None:
    run(hub, tmp_path, "pull", NAME)
    program = (
        "import huggingface_hub as h; print(h.try_to_load_from_cache('google/tiny', 'config.json')); "
        "print([(r.repo_id, len(r.revisions)) for r in h.scan_cache_dir().repos])"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path)}
    seen = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert f"{COMMIT}/config.json" in seen.stdout and "('google/tiny', 1)" in seen.stdout


def test_a_dropped_connection_goes_on_at_once(hub: Hub, tmp_path: Path) -> None:
    hub.drop_after = [len(WEIGHTS) // 2]
    result = run(hub, tmp_path, "pull", NAME, "--to", str(tmp_path / "here"))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "here" / "model.safetensors").read_bytes() == WEIGHTS
    first, second = fetched(hub, "model.safetensors")
    assert first == "" and second.startswith("bytes=") and int(second[6:].rstrip("-")) > 0


def test_the_token_stays_with_the_hub(hub: Hub, tmp_path: Path) -> None:
    """Weights lie at another host, where the token has no business; the transfer breaks off and goes on there."""
    hub.elsewhere, hub.drop_after = True, [15_000_000]
    result = run(hub, tmp_path, "pull", NAME, HF_TOKEN="hf_secret", NO_PROXY="127.0.0.1,localhost")
    assert result.returncode == 0, result.stderr
    assert (Path(result.stdout.strip()) / "model.safetensors").read_bytes() == WEIGHTS
    assert fetched(hub, "elsewhere/model.safetensors")[1].startswith("bytes=")
    assert hub.tokens and not [path for path, _ in hub.tokens if path.startswith("/elsewhere/")]
    assert "hf_secret" not in result.stderr + result.stdout


def test_an_interrupted_pull_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.drop_after, hub.stop_after = [20_000_000], 0
    message = mistake(run(hub, tmp_path, "pull", NAME))
    assert "broke off" in message and "goes on" in message
    [part] = tmp_path.rglob("*.part")
    begun = part.stat().st_size
    assert 0 < begun <= 20_000_000 and part.read_bytes() == WEIGHTS[:begun]
    assert find_pulled(NAME, cache=tmp_path / "hub") is None
    hub.stop_after = None
    hub.requests.clear()
    result = run(hub, tmp_path, "pull", NAME)
    assert result.returncode == 0, result.stderr
    assert (Path(result.stdout.strip()) / "model.safetensors").read_bytes() == WEIGHTS
    assert fetched(hub, "model.safetensors") == [f"bytes={begun}-"] and not fetched(hub, "config.json")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_wrong_hash_is_thrown_away(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.stated[name] = "0" * (64 if name.endswith(".safetensors") else 40)
    assert f"{name} arrived with a wrong hash" in mistake(run(hub, tmp_path, "pull", NAME))
    assert not list(tmp_path.rglob("*.part")) and find_pulled(NAME, cache=tmp_path / "hub") is None


def test_a_hash_that_is_a_path_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.stated["model.safetensors"] = "../../../evil"
    assert "no proper hash for model.safetensors" in mistake(run(hub, tmp_path, "pull", NAME))
    assert not fetched(hub, "model.safetensors")


def test_a_damaged_file_is_fetched_again(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    run(hub, tmp_path, "pull", NAME, "--to", str(folder))
    (folder / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"!")
    assert run(hub, tmp_path, "pull", NAME, "--to", str(folder)).returncode == 0
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(("code", "reason"), [(403, "GatedRepo"), (401, "GatedRepo")])
def test_gated(hub: Hub, tmp_path: Path, code: int, reason: str) -> None:
    hub.gate = code, reason
    message = mistake(run(hub, tmp_path, "pull", NAME))
    assert f"is gated; accept its terms at {hub.url}/{NAME}" in message and "HF_TOKEN" in message


def test_refused_without_a_reason(hub: Hub, tmp_path: Path) -> None:
    hub.gate = 403, "Other"
    assert "refuses access (403)" in mistake(run(hub, tmp_path, "pull", NAME))


def test_server_that_fails(hub: Hub, tmp_path: Path) -> None:
    hub.gate = 500, "Oops"
    assert "answers 500" in mistake(run(hub, tmp_path, "pull", NAME))


def test_missing_model_and_revision(hub: Hub, tmp_path: Path) -> None:
    assert "no such model" in mistake(run(hub, tmp_path, "pull", "google/nothing"))
    assert "has no revision 'v9'" in mistake(run(hub, tmp_path, "pull", NAME, "--revision", "v9"))


@pytest.mark.parametrize("name", ["tiny", "../../etc/x", "a/b/c", "https://hub/a", "google/"])
def test_names_that_are_none(hub: Hub, tmp_path: Path, name: str) -> None:
    assert "ORG/NAME" in mistake(run(hub, tmp_path, "pull", name)) and not hub.requests


def test_no_network(tmp_path: Path) -> None:
    assert "no connection to http://127.0.0.1:9" in mistake(run("http://127.0.0.1:9", tmp_path, "pull", NAME))


def test_no_network_but_pulled_before(hub: Hub, tmp_path: Path) -> None:
    assert run(hub, tmp_path, "pull", NAME).returncode == 0
    message = mistake(run("http://127.0.0.1:9", tmp_path, "pull", NAME))
    assert f"what was pulled before can be used: --model {NAME}" in message


def test_mirrors_that_are_none(hub: Hub, tmp_path: Path) -> None:
    assert "HF_ENDPOINT='mirror' is no web address" in mistake(run("mirror", tmp_path, "pull", NAME))
    hub.gate = 404, "Other"
    assert "is HF_ENDPOINT a mirror of the Hub?" in mistake(run(hub, tmp_path, "pull", NAME))


def test_offline_finds_what_is_there(hub: Hub, tmp_path: Path) -> None:
    absent = run(hub, tmp_path, "pull", NAME, HF_HUB_OFFLINE="1")
    assert "offline (HF_HUB_OFFLINE)" in mistake(absent)
    online = run(hub, tmp_path, "pull", NAME)
    hub.requests.clear()
    offline = run(hub, tmp_path, "pull", NAME, HF_HUB_OFFLINE="1")
    assert offline.stdout == online.stdout and not hub.requests


def test_pickle_only_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    assert "pytorch_model.bin is pickle" in mistake(run(hub, tmp_path, "pull", NAME))
    assert not fetched(hub, "pytorch_model.bin")


def test_disk_too_small_is_said_before_the_transfer(hub: Hub, tmp_path: Path) -> None:
    """A listing of a file of a petabyte: nothing of it is sent."""

    class Endless(bytes):
        def __len__(self) -> int:
            return 10**15

    hub.files["model.safetensors"] = Endless(b"x")
    message = mistake(run(hub, tmp_path, "pull", NAME))
    assert "1,000,000.0 GB are still to come" in message and "GB are free" in message
    assert not fetched(hub, "model.safetensors")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_disk_that_fills_up(hub: Hub, tmp_path: Path) -> None:
    """The part is a device that answers every write with ENOSPC."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "model.safetensors.part").symlink_to("/dev/full")
    assert "the disk is full" in mistake(run(hub, tmp_path, "pull", NAME, "--to", str(folder)))


def test_models_are_found_by_name_and_never_fetched_unasked(hub: Hub, tmp_path: Path) -> None:
    absent = run(hub, tmp_path, "generate", "--model", NAME, "Hello")
    assert f"castor pull {NAME}" in mistake(absent) and not hub.requests
    run(hub, tmp_path, "pull", NAME)
    hub.requests.clear()
    found = mistake(run(hub, tmp_path, "generate", "--model", NAME, "Hello"))
    assert f"snapshots/{COMMIT}/config.json: 'text_config' is missing" in found and not hub.requests


def test_cache_is_where_the_library_has_it() -> None:
    from huggingface_hub import constants

    assert cache_folder() == Path(constants.HF_HUB_CACHE)
    assert cache_folder({"HF_HOME": "/a"}) == Path("/a/hub")
    assert cache_folder({"HF_HUB_CACHE": "/b", "HF_HOME": "/a"}) == Path("/b")
    assert cache_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    with pytest.raises(ValueError, match="ORG/NAME"):
        model_folder("../x")
    assert find_pulled("google/tiny", "../../x") is None
