"""A plain Hugging Face folder, end to end: the same greedy answers as transformers' `generate`, media included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import castor
from castor import cli
from castor.content import Audio, Image, Message, Text

published = pytest.importorskip("published")
transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoint")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return published.write_checkpoint(folder)


@pytest.fixture(scope="module")
def model(folder: Path, theirs: Any) -> castor.Model:
    return castor.load(folder, device="cpu")


def their_inputs(model: castor.Model, message: Message) -> dict[str, torch.Tensor]:
    """The rendered prompt as transformers' model takes it."""
    sequence = model.renderer.encode([message], reply=True)
    ids = torch.from_numpy(sequence.ids_T.astype(np.int64))[None]
    kinds = torch.zeros_like(ids)
    kinds[0, torch.from_numpy(sequence.patch_at_P).long()] = 1
    kinds[0, torch.from_numpy(sequence.frame_at_S).long()] = 3
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds}
    if len(sequence.patch_at_P):
        inputs["pixel_values"] = torch.from_numpy(sequence.patches_PC / np.float32(255))[None]
        inputs["image_position_ids"] = torch.from_numpy(sequence.patch_xy_P2).long()[None]
    if len(sequence.frame_at_S):
        inputs["input_features"] = torch.from_numpy(sequence.frames_SF)[None]
        inputs["input_features_mask"] = torch.ones(inputs["input_features"].shape[:2], dtype=torch.bool)
    return inputs


def prompts() -> dict[str, Message]:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (96, 200, 3), dtype=np.uint8)
    samples = random.uniform(-1, 1, 5000).astype(np.float32)
    return {
        "text": Message.user("The quick brown fox, größer 红色 🙂"),
        "image": Message.user(Image.from_pixels(pixels), "How many red circles are there?"),
        "audio": Message.user("Listen:", Audio.from_samples(samples)),
        "both": Message.user(Image.from_pixels(pixels), "and", Audio.from_samples(samples), "?"),
    }


@pytest.mark.parametrize("name", list(prompts()))
def test_greedy_answers_are_those_of_transformers(model: castor.Model, theirs: Any, name: str) -> None:
    inputs = their_inputs(model, prompts()[name])
    with torch.inference_mode():
        out = theirs.generate(**inputs, max_new_tokens=24, do_sample=False)
    wanted = out[0, inputs["input_ids"].shape[1] :].tolist()
    ids = said(model, prompts()[name])
    if wanted[-1] in model.renderer.stop_ids:
        wanted.pop()
    assert ids == wanted and len(set(ids)) > 2
    assert model.generate(prompts()[name], max_tokens=24).parts == model.renderer.decode(wanted)


def said(model: castor.Model, message: Message, max_tokens: int = 24) -> list[int]:
    from castor.engine.engine import Engine, EngineConfig
    from castor.engine.sample import SamplingConfig

    engine = Engine(model, EngineConfig(cache_tokens=4096))
    request = engine.submit([message], SamplingConfig(max_tokens=max_tokens))
    while engine.step():
        pass
    return request.said_ids


@pytest.mark.parametrize("seed", range(6))
def test_stream_gives_what_generate_gives(model: castor.Model, seed: int) -> None:
    options = {"max_tokens": 40, "temperature": 3.0, "seed": seed}
    whole = model.generate(prompts()["text"], **options)
    joined: list[Any] = []
    for part in model.stream(prompts()["text"], **options):
        last = joined[-1] if joined else None
        if isinstance(part, Text) and isinstance(last, Text) and last.thought == part.thought:
            joined[-1] = Text(last.text + part.text, part.thought)
        else:
            joined.append(part)
    merged: list[Any] = []
    for part in whole.parts:
        if isinstance(part, Text) and merged and isinstance(merged[-1], Text) and merged[-1].thought == part.thought:
            merged[-1] = Text(merged[-1].text + part.text, part.thought)
        else:
            merged.append(part)
    assert joined == merged


def test_suppressed_ids_are_never_said(folder: Path, theirs: Any, model: castor.Model, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    first = said(model, prompts()["text"])[0]
    config = json.loads((tmp_path / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(json.dumps({**config, "suppress_tokens": [first]}))
    quiet = castor.load(tmp_path, device="cpu")
    inputs = their_inputs(model, prompts()["text"])
    with torch.inference_mode():
        out = theirs.generate(**inputs, max_new_tokens=8, do_sample=False, suppress_tokens=[first])
    wanted = out[0, inputs["input_ids"].shape[1] :].tolist()
    got = said(quiet, prompts()["text"], 8)
    assert got == wanted[: len(got)] and first not in got


def test_saved_again_it_is_the_same_checkpoint(model: castor.Model, tmp_path: Path) -> None:
    model.save(tmp_path, precision="float32")
    again = castor.load(tmp_path, device="cpu")
    assert not (tmp_path / "castor.json").exists() and (tmp_path / "generation_config.json").is_file()
    message = prompts()["both"]
    assert again.generate(message, max_tokens=8) == model.generate(message, max_tokens=8)
    back = transformers.Gemma4UnifiedForConditionalGeneration.from_pretrained(tmp_path)
    assert sum(weight.numel() for weight in back.parameters()) > 0


def test_command_line_answers(folder: Path, theirs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "--model", str(folder), "--max-tokens", "4", "Hello"]) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "needs tokenizer.json|no tokenizer there"),
        ("tokenizer.json", b"{}", "not a tokenizer.json"),
        ("processor_config.json", b'{"image_processor": {"max_soft_tokens": "many"}}', "'many' for image_tokens"),
        ("generation_config.json", b'{"suppress_tokens": [99999]}', "not ids of this model"),
        ("config.json", None, "neither a model folder"),
    ],
)
def test_what_does_not_fit_is_named(
    folder: Path, theirs: Any, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        castor.load(tmp_path, device="cpu")
    assert str(tmp_path) in str(caught.value)


def test_special_tokens_must_be_those_of_the_config(folder: Path, theirs: Any, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "image_token_id": 5}))
    with pytest.raises(ValueError, match=r"image_token_id=5, but <\|image\|> is \d+ in tokenizer.json"):
        castor.load(tmp_path, device="cpu")


def test_own_models_take_no_tools() -> None:
    with pytest.raises(ValueError, match="neither tools nor thinking"):
        castor.load("atom", device="cpu").generate("hi", thinking=True)


def test_a_published_model_that_is_absent_is_named_with_the_command() -> None:
    with pytest.raises(ValueError, match="to fetch it: castor pull google/gemma-4-nothing"):
        castor.load("google/gemma-4-nothing")
