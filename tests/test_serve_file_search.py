"""File search through Google's own client: stores, documents, and answers that stand on what was found."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Served, new_model, running

import castor
from castor.engine.model import Model
from castor.models.codec import ImageCodec
from castor.models.config import ModelConfig
from castor.server.app import create_app
from castor.server.config import ServerConfig
from castor.server.models import Offer
from castor.tokens.render import Renderer

genai = pytest.importorskip("google.genai")
types = genai.types

LEASE = "# Lease\n\nThe lease of the boat house ends on 3 May 2031. Rent is due monthly.\n"
SOUP = "# Soup\n\nBoil the leeks for twenty minutes, then add cream and pepper.\n"


@pytest.fixture(scope="module")
def writer(tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec) -> Model:
    return new_model(tiny_config, renderer, codec)


@pytest.fixture(scope="module")
def vectors() -> Model:
    return castor.load("atom-vectors", device="cpu")


@pytest.fixture(scope="module")
def served(writer: Model, vectors: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    offers = [Offer.of_model(writer, ("tiny",)), Offer.of_model(vectors, ("atom-vectors",))]
    config = ServerConfig(max_tokens=12, files_folder=str(tmp_path_factory.mktemp("kept")))
    with running(Served(create_app(offers, config), writer)) as server:
        yield server


@pytest.fixture(scope="module")
def client(served: Served) -> Any:
    return genai.Client(api_key="x", http_options={"base_url": served.url})


def until_done(client: Any, operation: Any) -> Any:
    end = time.monotonic() + 60
    while not operation.done:
        assert time.monotonic() < end
        time.sleep(0.05)
        operation = client.operations.get(operation)
    return operation


def put(client: Any, store: Any, text: str, name: str, **config: Any) -> Any:
    config = {"display_name": name, "mime_type": "text/markdown", **config}
    operation = client.file_search_stores.upload_to_file_search_store(
        file_search_store_name=store.name, file=io.BytesIO(text.encode()), config=config
    )
    return until_done(client, operation)


def test_an_answer_stands_on_what_was_found(client: Any) -> None:
    store = client.file_search_stores.create(config={"display_name": "My papers"})
    assert store.name.startswith("fileSearchStores/my-papers-")
    done = put(client, store, LEASE, "lease.md")
    put(client, store, SOUP, "soup.md")
    assert done.error is None and done.response.document_name.startswith(f"{store.name}/documents/lease-md-")
    tool = types.Tool(file_search=types.FileSearch(file_search_store_names=[store.name], top_k=1))
    reply = client.models.generate_content(
        model="tiny", contents="When does the lease of the boat house end?", config={"tools": [tool]}
    )
    [chunk] = reply.candidates[0].grounding_metadata.grounding_chunks
    assert chunk.retrieved_context.title == "lease.md" and "3 May 2031" in chunk.retrieved_context.text
    assert reply.usage_metadata.tool_use_prompt_token_count > 10
