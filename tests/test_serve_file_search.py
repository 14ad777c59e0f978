"""File search through Google's own client: stores, documents, and answers that stand on what was found."""

from __future__ import annotations

import copy
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Served, new_model, running, sample, scripted

import castor
from castor.content import Message, Text
from castor.engine.model import Model
from castor.index.answer import prompt_of
from castor.models.codec import ImageCodec
from castor.models.config import ModelConfig
from castor.server.app import create_app
from castor.server.config import ServerConfig
from castor.server.keys import Keys
from castor.server.models import Offer
from castor.tokens.render import Renderer

genai = pytest.importorskip("google.genai")
errors = pytest.importorskip("google.genai.errors")
types = genai.types

LEASE = "# Lease\n\nThe lease of the boat house ends on 3 May 2031. Rent is due monthly.\n"
SOUP = "# Soup\n\nBoil the leeks for twenty minutes, then add cream and pepper.\n"
ASKED = "When does the lease of the boat house end?"


@pytest.fixture(scope="module")
def writer(tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec) -> Model:
    return new_model(tiny_config, renderer, codec)


@pytest.fixture(scope="module")
def vectors() -> Model:
    return castor.load("atom-vectors", device="cpu")


def starting(writer: Model, vectors: Model, folder: Path, keys: tuple[str, ...] = (), **settings: Any) -> Served:
    offers = [Offer.of_model(writer, ("tiny",)), Offer.of_model(vectors, ("atom-vectors",))]
    config = ServerConfig(max_tokens=12, files_folder=str(folder), **settings)
    return Served(create_app(offers, config, Keys(keys)), writer)


@pytest.fixture(scope="module")
def served(writer: Model, vectors: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with running(starting(writer, vectors, tmp_path_factory.mktemp("kept"))) as server:
        yield server


def client_of(served: Served, key: str = "x") -> Any:
    return genai.Client(api_key=key, http_options={"base_url": served.url})


@pytest.fixture(scope="module")
def client(served: Served) -> Any:
    return client_of(served)


@pytest.fixture
def says(writer: Model) -> Iterator[Any]:
    """Makes the model say a text next, in the plain step."""
    with pytest.MonkeyPatch.context() as patch, scripted(writer) as script:
        patch.setattr("castor.engine.forward.can_decode", lambda decoder: False)
        yield lambda text: script(Text(text))


@pytest.fixture
def store(client: Any) -> Iterator[Any]:
    made = client.file_search_stores.create(config={"display_name": "My papers", "embedding_model": "atom-vectors"})
    yield made
    client.file_search_stores.delete(name=made.name, config={"force": True})


def until_done(client: Any, operation: Any) -> Any:
    end = time.monotonic() + 120
    while not operation.done:
        assert time.monotonic() < end
        time.sleep(0.05)
        operation = client.operations.get(operation)
    return operation


def put(client: Any, store: Any, content: str | bytes, name: str, **config: Any) -> Any:
    """A document, brought in; the name of it."""
    config = {"display_name": name, "mime_type": "text/markdown", **config}
    data = content.encode() if isinstance(content, str) else content
    operation = client.file_search_stores.upload_to_file_search_store(
        file_search_store_name=store.name, file=io.BytesIO(data), config=config
    )
    done = until_done(client, operation)
    assert done.error is None, done.error
    return done.response.document_name


def search(*stores: Any, **settings: Any) -> dict[str, Any]:
    tool = types.FileSearch(file_search_store_names=[store.name for store in stores], **settings)
    return {"tools": [types.Tool(file_search=tool)]}


def titles(client: Any, config: dict[str, Any], asked: Any = ASKED) -> list[str]:
    reply = client.models.generate_content(model="tiny", contents=asked, config=config)
    found = reply.candidates[0].grounding_metadata
    return [chunk.retrieved_context.title for chunk in found.grounding_chunks] if found else []


def test_an_answer_stands_on_what_was_found(served: Served, client: Any, store: Any) -> None:
    assert store.name.startswith("fileSearchStores/my-papers-") and store.embedding_model == "models/atom-vectors"
    lease = put(client, store, LEASE, "lease.md", custom_metadata=[{"key": "kind", "string_value": "paper"}])
    put(client, store, SOUP, "soup.md")
    reply = client.models.generate_content(model="tiny", contents=ASKED, config=search(store, top_k=1))
    [chunk] = reply.candidates[0].grounding_metadata.grounding_chunks
    context = chunk.retrieved_context
    assert (context.title, context.file_search_store) == ("lease.md", store.name)
    assert context.text.strip() == LEASE.strip() and context.custom_metadata[0].string_value == "paper"
    assert context.document_name == lease
    hit = type("Hit", (), {"path": "lease.md", "place": "lines 1–3"})
    shown = Message("user", tuple(prompt_of([(hit, [Text(context.text)])], [Text(ASKED)])))
    assert reply.text == served.model.generate([shown], max_tokens=12).text
    usage = reply.usage_metadata
    alone = client.models.count_tokens(model="tiny", contents=ASKED).total_tokens
    assert usage.prompt_token_count == alone
    assert alone + usage.tool_use_prompt_token_count == len(served.model.encode_prompt([shown]))
    parts = list(client.models.generate_content_stream(model="tiny", contents=ASKED, config=search(store, top_k=1)))
    assert "".join(part.text or "" for part in parts) == reply.text
    assert parts[-1].candidates[0].grounding_metadata == reply.candidates[0].grounding_metadata
    assert all(part.candidates[0].grounding_metadata is None for part in parts[:-1])


def test_filters_choose_documents(client: Any, store: Any) -> None:
    for name, year, tags in (("old.md", 1934, ["novel", "war"]), ("new.md", 2020, ["poems"]), ("bare.md", None, [])):
        metadata = [] if year is None else [{"key": "year", "numeric_value": year}]
        metadata += [{"key": "tags", "string_list_value": {"values": tags}}] if tags else []
        put(client, store, f"The {name} book is about the lease.\n", name, custom_metadata=metadata)

    def found(text: str) -> set[str]:
        return set(titles(client, search(store, metadata_filter=text)))

    assert found("year > 1900") == {"old.md", "new.md"}
    assert found("year >= 1934 AND year < 2000") == {"old.md"}
    assert found('tags = "poems" OR tags: "war"') == {"old.md", "new.md"}
    assert found('NOT tags: "war"') == {"new.md", "bare.md"}
    assert found("year: *") == {"old.md", "new.md"} and found("-year: *") == {"bare.md"}
    assert found('year = 1934 AND (tags = "poems" OR tags = "nov*")') == {"old.md"}
    assert found("year = 1") == set()
    for wrong in ("year >", "(year = 1", 'year = "a" )', "year", 'year ! "a"', "NOT " * 900 + "a = 1"):
        with pytest.raises(errors.ClientError, match="metadataFilter") as refused:
            found(wrong)
        assert refused.value.code == 400


def test_what_an_answer_rests_on(writer: Model, vectors: Model, tmp_path: Path, says: Any) -> None:
    """A sentence that stands in a passage, and one that names it, in both APIs; other sentences rest on nothing."""
    said = "Well. The lease of the boat house ends on 3 May 2031. So it is [1]."
    with running(starting(writer, vectors, tmp_path)) as served:
        client = client_of(served)
        store = client.file_search_stores.create()
        name = put(client, store, LEASE, "lease.md")
        says(said)
        reply = client.models.generate_content(
            model="tiny", contents=ASKED, config={**search(store), "max_output_tokens": 80}
        )
        assert reply.text == said
        supports = reply.candidates[0].grounding_metadata.grounding_supports
        wanted = ["The lease of the boat house ends on 3 May 2031.", "So it is [1]."]
        assert [each.segment.text for each in supports] == wanted
        assert [each.grounding_chunk_indices for each in supports] == [[0], [0]]
        for streams in (False, True):
            says(said)
            tool = {"type": "file_search", "file_search_store_names": [store.name], "top_k": 1}
            body = {"model": "tiny", "input": ASKED, "tools": [tool], "store": False, "stream": streams}
            body["generation_config"] = {"max_output_tokens": 80}
            made = httpx.post(f"{served.url}/v1beta/interactions", json=body, timeout=60)
            if streams:
                events = [json.loads(line[6:]) for line in made.text.splitlines() if line.startswith("data: ")]
                [cited] = [e["delta"] for e in events if e.get("delta", {}).get("type") == "text_annotation_delta"]
            else:
                cited = made.json()["steps"][-1]["content"][0]
                assert cited["text"] == said and made.json()["usage"]["total_tool_use_tokens"] > 0
            spans = [(each["start_index"], each["end_index"]) for each in cited["annotations"]]
            assert [said[start:end] for start, end in spans] == wanted
            assert (
                cited["annotations"][0]["document_uri"] == name and cited["annotations"][0]["file_name"] == "lease.md"
            )


def test_stores_and_documents_are_listed_and_go(client: Any, served: Served) -> None:
    stores = client.file_search_stores
    store = stores.create(config={"display_name": "Things"})
    assert titles(client, search(store)) == []
    assert store.name in [each.name for each in stores.list(config={"page_size": 1})]
    names = [put(client, store, LEASE, "lease.md"), put(client, store, SOUP, "soup.md")]
    got = stores.get(name=store.name)
    size = len(LEASE.encode()) + len(SOUP.encode())
    assert (got.active_documents_count, got.size_bytes, got.display_name) == (2, size, "Things")
    listed = list(stores.documents.list(parent=store.name, config={"page_size": 1}))
    assert sorted(each.name for each in listed) == sorted(names)
    document = stores.documents.get(name=names[0])
    assert (document.state, document.display_name, document.size_bytes) == ("STATE_ACTIVE", "lease.md", len(LEASE))
    assert "lease.md" in titles(client, search(store))
    with pytest.raises(errors.ClientError, match="force"):
        stores.documents.delete(name=names[0])
    stores.documents.delete(name=names[0], config={"force": True})
    assert titles(client, search(store)) == ["soup.md"]
    with pytest.raises(errors.ClientError, match="force"):
        stores.delete(name=store.name)
    stores.delete(name=store.name, config={"force": True})
    for lost in (lambda: stores.get(name=store.name), lambda: titles(client, search(store))):
        with pytest.raises(errors.ClientError) as gone:
            lost()
        assert (gone.value.code, gone.value.status) == (404, "NOT_FOUND")
    assert not (served.service.file_search.stores.folder / store.name.split("/")[1]).exists()


def test_an_uploaded_file_is_imported(client: Any, store: Any) -> None:
    file = client.files.upload(file=io.BytesIO(LEASE.encode()), config={"mime_type": "text/plain", "display_name": "l"})
    operation = client.file_search_stores.import_file(
        file_search_store_name=store.name,
        file_name=file.name,
        config={"custom_metadata": [{"key": "a", "string_value": "b"}]},
    )
    done = until_done(client, operation)
    client.files.delete(name=file.name)
    assert done.name.startswith(f"{store.name}/operations/") and done.response.parent == store.name
    document = client.file_search_stores.documents.get(name=done.response.document_name)
    assert document.custom_metadata[0].string_value == "b"
    assert titles(client, search(store, metadata_filter="a = b")) == ["l"]


def test_passages_have_the_size_that_is_asked_for(client: Any, store: Any) -> None:
    words = [f"word{number}" for number in range(50)]
    chunking = {"white_space_config": {"max_tokens_per_chunk": 20, "max_overlap_tokens": 5}}
    put(client, store, " ".join(words), "words.txt", mime_type="text/plain", chunking_config=chunking)
    reply = client.models.generate_content(model="tiny", contents="word7", config=search(store, top_k=9))
    chunks = reply.candidates[0].grounding_metadata.grounding_chunks
    texts = sorted((chunk.retrieved_context.text.split() for chunk in chunks), key=lambda text: words.index(text[0]))
    assert texts == [words[0:20], words[15:35], words[30:50]]


def test_pictures_and_pages_are_found_and_shown(client: Any, store: Any) -> None:
    picture = sample("scene.png")
    name = put(client, store, picture, "scene.png", mime_type="image/png")
    put(client, store, sample("page.pdf"), "page.pdf", mime_type="application/pdf")
    asked = [types.Part.from_bytes(data=picture, mime_type="image/png"), "where is this from?"]
    reply = client.models.generate_content(model="tiny", contents=asked, config=search(store))
    contexts = [chunk.retrieved_context for chunk in reply.candidates[0].grounding_metadata.grounding_chunks]
    shown = next(context for context in contexts if context.title == "scene.png")
    assert shown.media_id == name.replace("/documents/", "/media/") and not shown.text
    assert client.file_search_stores.download_media(media_id=shown.media_id) == picture
    assert {context.page_number for context in contexts if context.title == "page.pdf"} >= {1}
    details = {each.modality: each.token_count for each in reply.usage_metadata.tool_use_prompt_tokens_details}
    assert details["IMAGE"] > 0 and details["DOCUMENT"] > 0


def test_what_cannot_be_brought_in_says_why(client: Any, store: Any) -> None:
    operation = client.file_search_stores.upload_to_file_search_store(
        file_search_store_name=store.name,
        file=io.BytesIO(b"\x7fELF\0\1\2\3" * 20),
        config={"mime_type": "application/octet-stream", "display_name": "program"},
    )
    done = until_done(client, operation)
    assert "not a kind of file" in done.error["message"] and done.response is None
    assert client.file_search_stores.get(name=store.name).failed_documents_count == 1


def test_questions_to_several_stores_and_what_is_wrong(client: Any, store: Any, served: Served) -> None:
    other = client.file_search_stores.create()
    put(client, store, LEASE, "lease.md")
    put(client, other, SOUP, "soup.md")
    assert set(titles(client, search(store, other))) == {"lease.md", "soup.md"}
    config = {**search(store), "candidate_count": 2, "temperature": 1.0}
    both = client.models.generate_content(model="tiny", contents=ASKED, config=config).candidates
    assert len(both) == 2 and all(each.grounding_metadata.grounding_chunks for each in both)
    client.file_search_stores.delete(name=other.name, config={"force": True})
    with pytest.raises(errors.ClientError, match="makes no vectors"):
        client.file_search_stores.create(config={"embedding_model": "tiny"})
    body = {"contents": [{"parts": [{"text": "a"}]}]}
    for tool, named in (
        ({}, "fileSearchStoreNames"),
        ({"fileSearchStoreNames": [store.name], "topK": 0}, "topK"),
        ({"fileSearchStoreNames": [store.name], "colour": 1}, "colour"),
        ({"fileSearchStoreNames": store.name, "metadataFilter": 3}, "metadataFilter"),
    ):
        sent = {**body, "tools": [{"fileSearch": tool}]}
        reply = httpx.post(f"{served.url}/v1beta/models/tiny:generateContent", json=sent)
        assert reply.status_code == 400 and named in reply.json()["error"]["message"], reply.text


def test_stores_outlive_a_server_and_belong_to_a_key(writer: Model, vectors: Model, tmp_path: Path) -> None:
    keys = ("one", "two")
    with running(starting(writer, vectors, tmp_path, keys)) as served:
        client, stranger = client_of(served, "one"), client_of(served, "two")
        store = client.file_search_stores.create(config={"display_name": "Kept"})
        put(client, store, LEASE, "lease.md")
        assert [each.name for each in stranger.file_search_stores.list()] == []
        for lost in (
            lambda: stranger.file_search_stores.get(name=store.name),
            lambda: titles(stranger, search(store)),
            lambda: stranger.file_search_stores.delete(name=store.name, config={"force": True}),
        ):
            with pytest.raises(errors.ClientError) as hidden:
                lost()
            assert hidden.value.code == 404
        served.service.file_search.wake = lambda: None  # the next document waits, as if the server died now
        operation = client.file_search_stores.upload_to_file_search_store(
            file_search_store_name=store.name,
            file=io.BytesIO(SOUP.encode()),
            config={"mime_type": "text/plain", "display_name": "soup.txt"},
        )
        assert not operation.done
        lost_path = served.service.file_search.stores.folder / store.name.split("/")[1] / "documents" / "nobody"
        lost_path.write_bytes(b"left by a crash")
    with running(starting(writer, vectors, tmp_path, keys, stores_bytes=200_000)) as served:
        client = client_of(served, "one")
        assert until_done(client, operation).error is None
        assert set(titles(client, search(store))) == {"lease.md", "soup.txt"}
        assert not lost_path.exists()
        with pytest.raises(errors.ClientError, match="stores may have") as full:
            put(client, store, "x " * 100_000, "long.txt")
        assert full.value.code == 429
    offers = [Offer.of_model(writer, ("tiny",)), Offer.of_model(_changed(vectors), ("atom-vectors",))]
    app = create_app(offers, ServerConfig(files_folder=str(tmp_path)), Keys(keys))
    with running(Served(app, writer)) as served, pytest.raises(errors.ClientError, match="vectors of another model"):
        titles(client_of(served, "one"), search(store))


def _changed(model: Model) -> Model:
    """The same model with other weights."""
    decoder = copy.deepcopy(model.decoder)
    next(iter(decoder.parameters())).data += 1
    return Model(decoder, model.renderer, model.codec)
