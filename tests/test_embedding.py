"""Our own sizes make vectors: a head beside weights that go on writing, published task forms, saved and loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import castor
from castor.content import Audio, Image, Message, Text, Video
from castor.diorama.world import World
from castor.engine.model import Model, load
from castor.models.decoder import Decoder
from castor.models.extend import HEAD, with_embedding_head
from castor.nn.pool import mean_by_document
from castor.tokens.pack import collate
from castor.tokens.prompts import PROMPTS, USES, document_prompt, query_prompt


@pytest.fixture()
def embedder(model: Model) -> Model:
    """The tiny model with a head of 24 numbers."""
    return Model(with_embedding_head(model.decoder, 24), model.renderer, model.codec)


def picture(seed: int = 0, side: int = 32) -> Image:
    return Image.from_pixels(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def test_a_head_changes_nothing_that_was_there(model: Model, embedder: Model) -> None:
    prompt = [picture(), "how many red circle are there"]
    assert torch.equal(model.logits(prompt), embedder.logits(prompt))
    before = model.generate(prompt, max_tokens=8)
    assert embedder.generate(prompt, max_tokens=8) == before
    kept, now = model.decoder.state_dict(), embedder.decoder.state_dict()
    assert set(now) - set(kept) == {HEAD} and now[HEAD].shape == (24, 32)
    assert with_embedding_head(embedder.decoder, 24) is embedder.decoder
    with pytest.raises(ValueError, match="head of 24"):
        with_embedding_head(embedder.decoder, 16)


@torch.inference_mode()
def test_vectors_are_the_projected_mean_of_both_ways(embedder: Model) -> None:
    sequence = embedder.renderer.encode_task([Message.user(picture(), "red circle")])
    batch = collate([[sequence]], len(sequence))
    hidden = embedder.decoder.hidden(batch, bidirectional=True)
    mean = mean_by_document(hidden, batch.doc_BT) @ embedder.decoder.state_dict()[HEAD].T
    wanted = mean / mean.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(embedder.embed([picture(), "red circle"]), wanted, atol=1e-5, rtol=1e-5)


def test_saved_and_loaded_it_writes_and_embeds(embedder: Model, tmp_path: Path) -> None:
    embedder.save(tmp_path, precision="float32")
    again = load(tmp_path)
    sound = Audio.from_samples(np.sin(np.arange(8000) / 9).astype(np.float32), 16_000)
    film = Video.from_frames(np.zeros((4, 16, 16, 3), np.uint8), 4.0)
    prompts = ["red circle", [picture()], [sound], [film], [picture(), "blue", sound]]
    torch.testing.assert_close(again.embed(*prompts), embedder.embed(*prompts), atol=1e-6, rtol=1e-6)
    assert again.generate("red", max_tokens=4) == embedder.generate("red", max_tokens=4)


def test_together_and_alone_are_the_same(embedder: Model) -> None:
    prompts = ["red", [picture(1), "blue circle"], "how many are there", [picture(2, 48)]]
    alone = torch.cat([embedder.embed(prompt) for prompt in prompts])
    torch.testing.assert_close(embedder.embed(*prompts), alone, atol=1e-5, rtol=1e-5)


def test_a_prefix_is_a_vector(embedder: Model) -> None:
    whole, part = embedder.embed("red circle"), embedder.embed("red circle", dimensions=6)
    assert part.shape == (1, 6)
    torch.testing.assert_close(part, whole[:, :6] / whole[:, :6].norm())


def test_tasks_are_the_published_words(embedder: Model) -> None:
    assert query_prompt("search result") == "task: search result | query: "
    assert document_prompt() == "title: none | text: " and document_prompt("Stars") == "title: Stars | text: "
    assert {PROMPTS["Retrieval-query"], PROMPTS["Retrieval-document"]} == {query_prompt(USES[0]), document_prompt()}
    by_name = embedder.embed("red circle", task="Retrieval-query")
    by_hand = embedder.embed("task: search result | query: red circle")
    assert torch.equal(by_name, by_hand)
    for prompt, task, message in (
        ([picture()], "Retrieval-query", "media carry no task"),
        ("red", "Nothing", "task='Nothing' is not one of"),
        ([Text("")], None, "a vector of nothing"),
        ([Message.model("red")], None, "one message from the user"),
    ):
        with pytest.raises(ValueError, match=message):
            embedder.embed(prompt, task=task)


def test_a_model_without_a_head_says_how_to_get_one(model: Model) -> None:
    with pytest.raises(ValueError, match="castor train embed"):
        model.embed("red")


def test_config_keeps_the_head(embedder: Model) -> None:
    config = embedder.decoder.config
    assert type(config).from_hf(config.to_hf()) == config
    text = dataclasses.replace(config.text, embedding_dim=None)
    assert Decoder(dataclasses.replace(config, text=text)).language_model.embedding_projection is None


def test_the_shipped_vectors_find_pictures_by_words_and_still_write():
    model = castor.load("atom-vectors", device="cpu")
    examples = [World(split="test", languages=("en",), speech=False).example("caption", index) for index in range(40)]
    pictures = model.embed(*[list(example.messages[0].images) for example in examples])
    words = model.embed(*[example.answer.text for example in examples])
    found = (words @ pictures.T).argmax(1)
    assert (found == torch.arange(40)).float().mean() > 0.9  # one in forty by chance
    assert model.generate("What is 3 + 4?", max_tokens=24).text == "3 + 4 = 7"
