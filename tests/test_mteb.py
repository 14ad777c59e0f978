"""mteb runs our models on tasks of its own kind, offline, and comes to the numbers that our own evaluation does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("mteb")

import mteb

from castor.content import Audio, Image, Text, Video
from castor.diorama.pairs import WorldPairs
from castor.engine.model import Model
from castor.evals.mteb_tasks import embed_rows, mteb_model, mteb_tasks, parts_of, rows_of, task_name
from castor.evals.retrieval import measure
from castor.models.extend import with_embedding_head
from castor.recipes.retrieval import pool_of
from castor.tokens.prompts import PROMPTS, document_prompt


@pytest.fixture()
def embedder(model: Model) -> Model:
    return Model(with_embedding_head(model.decoder, 64), model.renderer, model.codec)


@pytest.mark.parametrize("name", ["text_image", "composed", "text_audio", "video_text", "translated", "docstring_code"])
def test_mteb_comes_to_our_numbers(embedder: Model, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pairs = [WorldPairs(name, 0, "test").at(index) for index in range(8)]
    if pairs[0].query_task:  # mteb's kind says what a text is for
        pairs = [replace(pair, query_task="Retrieval-query", target_task="Retrieval-document") for pair in pairs]
    (task,) = mteb_tasks({name: pairs})
    result = mteb.evaluate(mteb_model(embedder), task, cache=None, show_progress_bar=False, co2_tracker=False)
    found = result.task_results[0].scores["test"][0]
    (ours,) = measure(pool_of(embedder, name, pairs), 64)
    assert found["ndcg_at_10"] == pytest.approx(ours.ndcg_10, abs=1e-4)
    assert found["hit_rate_at_1"] == pytest.approx(ours.recall_1, abs=1e-4)


def test_rows_become_parts() -> None:
    from PIL import Image as Pillow

    pixels = np.full((4, 6, 3), 9, np.uint8)
    row = {
        "image": Pillow.fromarray(pixels), "text": "red", "audio": {"array": [0.0] * 800, "sampling_rate": 16_000},
        "video": torch.zeros(3, 3, 8, 8, dtype=torch.uint8),
    }  # fmt: skip
    parts = parts_of(row)
    assert [type(part) for part in parts] == [Image, Video, Audio, Text]
    assert (parts[0].pixels() == pixels).all() and parts_of({"text": ""}) == [Text(" ")]
    assert rows_of({"text": ["a", "b"], "id": [1, 2]}) == [{"text": "a"}, {"text": "b"}]
    with pytest.raises(ValueError, match="without text"):
        rows_of({"id": [1]})


def test_texts_carry_the_published_words(embedder: Model) -> None:
    class About:
        modalities = ("text",)
        type = "STS"

    assert task_name(About, None) == "STS" and task_name(About, "document") == "Retrieval-document"
    found = embed_rows(embedder, [{"text": "A b", "title": "A", "body": "b"}], "Retrieval-document", None)
    assert torch.equal(found, embedder.embed(document_prompt("A") + "b"))
    found = embed_rows(embedder, [{"text": "red"}], "STS", 16)
    assert torch.equal(found, embedder.embed(PROMPTS["STS"] + "red", dimensions=16))


def test_a_model_without_a_head_is_refused(model: Model) -> None:
    with pytest.raises(ValueError, match="castor train embed"):
        mteb_model(model)
