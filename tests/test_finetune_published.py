"""Fine-tuning of published checkpoints: it learns, PEFT reads the adapter, and one that only read learns to draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import castor
from castor.content import Audio, Image, Message, Text
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


def write_examples(path: Path, hears: bool = True) -> str:
    """Lines with a picture, with a sound, and with text alone."""
    tone = np.sin(np.arange(4800) / 9).astype(np.float32)
    heard = Audio.from_samples(tone) if hears else Text("a tone")
    asked = [Message.user(picture(index, 48), f"how many {index}") for index in range(4)]
    asked += [Message.user("hear", heard), Message.user("which colour")]
    return write(path, *(turns(each, Message.model(["red", "blue"][at % 2])) for at, each in enumerate(asked)))


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


def write_pairs(path: Path) -> str:
    """Queries and what they should find: pictures, a sound and text."""
    tone = np.sin(np.arange(4800) / 9).astype(np.float32)
    found = [picture(index, 48) for index in range(3)] + [Audio.from_samples(tone), Text("a quick brown fox")]
    asked = ["red", "blue", "how many circles", "a tone", "which animal"]
    return write(path, *(turns(Message.user(q), Message.model(t)) for q, t in zip(asked, found, strict=True)))


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_a_published_model_of_vectors_learns_pairs(method: Any, tmp_path: Path) -> None:
    from castor.log import read_metrics

    theirs = write_base(tmp_path / "base", "embedding_gemma2")
    path = write_pairs(tmp_path / "pairs.jsonl")
    rate = 0.003 if method == "full" else 0.02
    changes = {"examples": (path,), "method": method, "learning_rate": rate, "steps": 12, "batch_size": 4}
    report = run_finetune(settings(tmp_path, **changes, held_out=0.2), say=lambda _: None)
    assert report is not None and report["before"]["nearest"] == 1.0  # one pair is held out
    losses = [row["loss"] for row in read_metrics(tmp_path / "run" / "tune" / "metrics.jsonl")]
    assert losses[-1] < 0.7 * losses[0]
    if method != "lora":
        return
    peft = pytest.importorskip("peft")
    base, ours = (castor.load(tmp_path / "base", adapter=at, device="cpu") for at in (None, tmp_path / "run/adapter"))
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "run" / "adapter").eval()
    sequence = ours.renderer.encode_task([Message.user("how many circles")])
    with torch.inference_mode():
        ids = torch.from_numpy(sequence.ids_T[None]).long()
        wanted = adapted(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].mean(0)
    wanted, got, before = (
        torch.nn.functional.normalize(wanted, dim=-1),
        *(torch.as_tensor(np.asarray(model.embed("how many circles"))) for model in (ours, base)),
    )
    assert (got - wanted).abs().max() < 1e-4 < 0.01 < (got - before).abs().max()


def test_lines_that_are_no_pair_are_named(tmp_path: Path) -> None:
    write_base(tmp_path / "base", "embedding_gemma2")
    more = turns(Message.user("a"), Message.model("b"), Message.user("c"), Message.model("d"))
    path = write(tmp_path / "pairs.jsonl", turns(Message.user("a"), Message.model("b")), more)
    with pytest.raises(ValueError, match=r"line 2: for a model of vectors a line is one user turn"):
        run_finetune(settings(tmp_path, examples=(path,)), say=lambda _: None)
    assert not (tmp_path / "run").exists()
