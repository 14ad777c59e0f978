"""Fine-tuning of published checkpoints: it learns, PEFT reads the adapter, and one that only read learns to draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import castor
from castor.content import Image, Message
from castor.models.codec import ImageCodec
from castor.models.extend import drawing_ids
from castor.recipes.finetune import FinetuneConfig, run_finetune
from castor.recipes.senses import add_drawing
from castor.tokens.space import GemmaSpace

published = pytest.importorskip("published")
transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

from test_finetune import picture, turns, write  # noqa: E402

NAMES = ["gemma4_unified", "gemma4 E2B"]


def write_base(folder: Path, name: str) -> Any:
    """A tiny random checkpoint as transformers writes it; gives its model."""
    folder.mkdir()
    if name == "gemma4_unified":
        return published.write_checkpoint(folder)
    return published.write_tower_checkpoint(folder, name)


def write_examples(path: Path) -> str:
    lines = [
        turns(Message.user(picture(index, 48), f"how many {index}"), Message.model(["red", "blue"][index % 2]))
        for index in range(6)
    ]
    return write(path, *lines)


def settings(tmp_path: Path, **changes: Any) -> FinetuneConfig:
    options: dict[str, Any] = {
        "model": str(tmp_path / "base"),
        "out": str(tmp_path / "run"),
        "steps": 8,
        "batch_size": 3,
        "rank": 4,
        "learning_rate": 0.02,
        "held_out": 0.0,
        "answers": 0,
        "device": "cpu",
    }
    return FinetuneConfig(**options | changes)


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_a_published_checkpoint_learns(name: str, method: Any, tmp_path: Path) -> None:
    from castor.log import read_metrics

    theirs = write_base(tmp_path / "base", name)
    path = write_examples(tmp_path / "own.jsonl")
    rate = 0.003 if method == "full" else 0.02
    config = settings(tmp_path, examples=(path,), method=method, learning_rate=rate)
    assert run_finetune(config, say=lambda _: None) is not None
    losses = [row["loss"] for row in read_metrics(tmp_path / "run" / "tune" / "metrics.jsonl")]
    assert losses[-1] < (0.95 if name == "gemma4_unified" else 0.7) * losses[0]  # of its own random weights
    if method == "lora":
        pytest.importorskip("peft")
        check_adapter(theirs, tmp_path)


def check_adapter(theirs: Any, tmp_path: Path) -> None:
    """PEFT puts our adapter onto transformers' model, and both give the same logits, which are not the old ones."""
    from peft import PeftModel
    from test_published import their_inputs

    base = castor.load(tmp_path / "base", device="cpu")
    ours = castor.load(tmp_path / "base", adapter=tmp_path / "run" / "adapter", device="cpu")
    message = Message.user("how many red circles")
    inputs = their_inputs(base, message)
    adapted = PeftModel.from_pretrained(theirs, tmp_path / "run" / "adapter").eval()
    with torch.inference_mode():
        wanted = adapted(**inputs).logits[0]
    sequence = ours.renderer.encode([message], reply=True)
    from castor.tokens.pack import collate

    with torch.inference_mode():
        got, before = (model.decoder(collate([[sequence]], len(sequence)))[0] for model in (ours, base))
    assert (got - wanted).abs().max() < 1e-3 * wanted.abs().max().clamp(min=1.0)
    assert (got - before).abs().max() > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_old_ids_keep_their_logits_exactly(name: str, codec: ImageCodec, tmp_path: Path) -> None:
    write_base(tmp_path / "base", name)
    model = castor.load(tmp_path / "base", device="cpu")
    taught, is_new_V = add_drawing(model, codec)
    space = taught.renderer.space
    assert isinstance(space, GemmaSpace) and torch.equal(is_new_V, drawing_ids(space)) and space.num_text == 704
    prompt = [Message.user(picture(3, 48), "how many red circles")]
    before, after = model.logits(prompt), taught.logits(prompt)
    assert after.shape[1] == space.vocab_size > 704 and torch.equal(after[:, :704], before)
    assert taught.generate(prompt, max_tokens=8, temperature=0.0) is not None
    sequence = taught.renderer.encode([Message.user("draw"), Message.model(picture(4, 16), "done")])
    said = sequence.ids_T[sequence.is_target_T]
    parts = taught.renderer.decode(said)
    assert isinstance(parts[0], Image) and parts[1].text == "done"
    wanted = codec.decode(codec.encode(picture(4, 16).pixels()))
    np.testing.assert_array_equal(parts[0].pixels(), wanted)


@pytest.mark.parametrize(
    ("name", "method"), [("gemma4_unified", "rows"), ("gemma4 E2B", "rows"), ("gemma4 E2B", "lora")]
)
def test_a_checkpoint_that_only_read_learns_to_draw(name: str, method: Any, codec: ImageCodec, tmp_path: Path) -> None:
    """Trained, saved and loaded again, its reply holds the picture it was taught."""
    write_base(tmp_path / "base", name)
    codec.save(tmp_path / "codec", dtype=torch.float32)
    taught = turns(Message.user("draw"), Message.model(picture(4)))
    path = write(tmp_path / "drawings.jsonl", *[taught] * 4)
    changes = {"examples": (path,), "method": method, "senses": "draw", "codec": str(tmp_path / "codec")}
    config = settings(tmp_path, **changes, steps=60, learning_rate=0.1)
    assert run_finetune(config, say=lambda _: None) is not None
    base = castor.load(tmp_path / "base", device="cpu")
    again = castor.load(tmp_path / "run" / "model", device="cpu")
    if method == "rows":
        old, new = (model.decoder.output_weight_VD[:704] for model in (base, again))
        assert torch.equal(new, old.bfloat16().float())
    drawn = again.generate("draw", image_temperature=0.0, max_tokens=8).images
    assert len(drawn) == 1
    wanted = codec.decode(codec.encode(picture(4).pixels()))
    assert np.abs(drawn[0].pixels().astype(int) - wanted.astype(int)).max() <= 2  # the codec is saved in bfloat16
    streamed = [part for part in again.stream("draw", image_temperature=0.0, max_tokens=8) if isinstance(part, Image)]
    assert len(streamed) == 1
