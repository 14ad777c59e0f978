"""Files through Google's own client, and what its client does not do, by hand."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving import Served, new_model, sample, serving, text_only

from castor.content import Image, Message
from castor.models.codec import ImageCodec
from castor.models.config import ModelConfig
from castor.server.config import ServerConfig
from castor.server.errors import ApiError
from castor.server.files import FileStore
from castor.tokens.render import Renderer

genai = pytest.importorskip("google.genai")
errors = pytest.importorskip("google.genai.errors")


@pytest.fixture(scope="module")
def served(
    tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = str(tmp_path_factory.mktemp("files"))
    with serving(new_model(tiny_config, renderer, codec), files_folder=folder, file_bytes=20_000_000) as running:
        yield running


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_upload_use_and_delete(served: Served, version: str, tmp_path: Path) -> None:
    client = genai.Client(api_key="x", http_options={"base_url": served.url, "api_version": version})
    path = tmp_path / "scene.png"
    path.write_bytes(sample("scene.png"))
    file = client.files.upload(file=str(path), config={"display_name": "a scene"})
    assert (file.state, file.mime_type, file.size_bytes) == ("ACTIVE", "image/png", path.stat().st_size)
    assert base64.b64decode(file.sha256_hash) == hashlib.sha256(path.read_bytes()).digest()
    assert client.files.get(name=file.name) == client.files.get(name=file.uri) == file
    assert file in list(client.files.list(config={"page_size": 1}))
    assert client.files.download(file=file.name) == path.read_bytes()
    config = {"response_modalities": ["TEXT"]}
    reply = client.models.generate_content(model="tiny", contents=[file, "what is it"], config=config)
    assert reply.text == text_only(served, Message.user(Image(path.read_bytes()), "what is it")).text
    client.files.delete(name=file.name)
    for name in (file.name, "files/nothing"):
        with pytest.raises(errors.ClientError) as gone:
            client.files.get(name=name)
        assert (gone.value.code, gone.value.status) == (404, "NOT_FOUND")
    with pytest.raises(errors.ClientError, match="expired"):
        client.models.generate_content(model="tiny", contents=[file, "what is it"])


def test_a_large_file_comes_in_pieces(served: Served) -> None:
    client = genai.Client(api_key="x", http_options={"base_url": served.url})
    content = bytes(range(256)) * 40_000  # 10 MB, two pieces of the client
    file = client.files.upload(file=io.BytesIO(content), config={"mime_type": "video/mp4", "name": "files/large-one"})
    assert (file.name, file.size_bytes) == ("files/large-one", len(content))
    assert client.files.download(file=file.name) == content
    with pytest.raises(errors.ClientError) as taken:
        client.files.upload(file=io.BytesIO(b"x"), config={"mime_type": "image/png", "name": "files/large-one"})
    assert taken.value.code == 409
    client.files.delete(name=file.name)


def start(served: Served, file: dict, **headers: str) -> httpx.Response:
    all_headers = {"x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start", **headers}
    return httpx.post(f"{served.url}/upload/v1beta/files", headers=all_headers, json={"file": file})


def send(url: str, command: str, offset: int, content: bytes = b"") -> httpx.Response:
    headers = {"x-goog-upload-command": command, "x-goog-upload-offset": str(offset)}
    return httpx.post(url, headers=headers, content=content)


def test_an_upload_goes_on_where_it_stopped(served: Served) -> None:
    begun = start(served, {"display_name": "x", "mimeType": "image/png", "sizeBytes": "6"})
    url = begun.headers["x-goog-upload-url"]
    assert begun.headers["x-goog-upload-status"] == "active" and url.startswith(served.url)
    assert send(url, "upload", 0, b"abc").headers["x-goog-upload-status"] == "active"
    asked = send(url, "query", 0)
    assert (asked.headers["x-goog-upload-size-received"], asked.status_code) == ("3", 200)
    done = send(url, "upload, finalize", 3, b"def")
    assert done.headers["x-goog-upload-status"] == "final"
    name = done.json()["file"]["name"]
    assert httpx.get(f"{served.url}/v1/{name}:download").content == b"abcdef"
    assert send(url, "query", 0).status_code == 404
    assert httpx.delete(f"{served.url}/v1/{name}").json() == {}


@pytest.mark.parametrize(
    ("file", "headers", "status"),
    [
        ({"name": "files/../../etc"}, {}, 400),
        ({"name": "files/UPPER"}, {}, 400),
        ({"mimeType": 7}, {}, 400),
        ({"surprise": 7}, {}, 400),
        ({"sizeBytes": 10**12}, {}, 413),
        ({"sizeBytes": "-1"}, {}, 400),
        ({}, {"x-goog-upload-protocol": "multipart"}, 400),
        ({}, {"x-goog-upload-command": "begin"}, 400),
        ({}, {"host": "a b"}, 400),
    ],
)
def test_wrong_beginnings(served: Served, file: dict, headers: dict, status: int) -> None:
    reply = start(served, file, **headers)
    assert reply.status_code == status
    if reply.headers.get("content-type") == "application/json":
        assert reply.json()["error"]["code"] == status
        assert reply.headers["x-goog-upload-status"] == "cancelled"


def test_wrong_pieces(served: Served) -> None:
    url = start(served, {}).headers["x-goog-upload-url"]
    assert send(url, "dance", 0).status_code == 400
    assert send(url, "upload", 5, b"abc").status_code == 400  # which ends it
    lost = send(url, "upload", 0, b"abc")
    assert (lost.status_code, lost.headers["x-goog-upload-status"]) == (404, "cancelled")
    url = start(served, {}).headers["x-goog-upload-url"]
    assert send(url, "upload, finalize", 0, bytes(20_000_001)).status_code == 413
    assert not list(Path(served.service.files.folder).glob("*.part"))


def test_files_belong_to_their_key(tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec) -> None:
    with serving(new_model(tiny_config, renderer, codec), keys=("one", "two")) as served:
        clients = [genai.Client(api_key=key, http_options={"base_url": served.url}) for key in ("one", "two")]
        file = clients[0].files.upload(file=io.BytesIO(b"x"), config={"mime_type": "image/png"})
        assert list(clients[1].files.list()) == [] and list(clients[0].files.list()) == [file]
        with pytest.raises(errors.ClientError):
            clients[1].files.get(name=file.name)
        assert start(served, {}).status_code == 401


def stored(store: FileStore, content: bytes, owner: str = "") -> str:
    secret = store.begin(owner, name="", display_name="", mime_type="image/png", size_bytes=0)
    store.append(store.upload(secret), content)
    return store.finish(secret).id


def test_quota_expiry_and_a_second_life(tmp_path: Path) -> None:
    now = [1000.0]
    config = ServerConfig(files_folder=str(tmp_path), files_bytes=100, file_bytes=80, files_hours=1)
    store = FileStore(config, lambda: now[0])
    first = stored(store, bytes(60))
    with pytest.raises(ApiError, match="delete some first") as full:
        stored(store, bytes(50))
    assert full.value.status == 429
    with pytest.raises(ApiError, match="delete some first"):
        store.begin("", name="", display_name="", mime_type="", size_bytes=41)
    again = FileStore(config, lambda: now[0])
    assert [file.id for file in again.all("")] == [first]
    assert (tmp_path / first).stat().st_mode & 0o077 == 0
    (tmp_path / "broken.json").write_text('{"id": "broken"}')
    assert len(FileStore(config, lambda: now[0]).all("")) == 1
    now[0] += 3601
    assert again.all("") == [] and not (tmp_path / first).exists()
    stored(again, bytes(70))
    secret = again.begin("", name="", display_name="", mime_type="", size_bytes=30)
    now[0] += 3500
    again.upload(secret)
    now[0] += 200
    with pytest.raises(ApiError, match="expired"):
        again.upload(secret)
