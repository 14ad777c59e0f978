"""The verbs with `--model FOLDER` for every published form, and what each says of a folder that is not whole."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from castor import cli
from castor.content import Audio, Image

published = pytest.importorskip("published")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

from test_finetune_published import write_base, write_examples  # noqa: E402

WRITERS = ["gemma4_unified", "gemma4 E2B", "gemma4 E4B", "gemma4 31B", "gemma4 26B-A4B"]
VERBS = ["generate", "chat", "train", "eval"]


@pytest.fixture(scope="module", params=WRITERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published checkpoint of one form."""
    path = tmp_path_factory.mktemp("form") / "base"
    write_base(path, request.param)
    if request.param != "gemma4_unified":
        widen(path)
    return path


def widen(folder: Path) -> None:
    """Places for a page of 1120 soft tokens, for which the tiny towers are too small."""
    config, weights = json.loads((folder / "config.json").read_text()), folder / "model.safetensors"
    config["vision_config"]["position_embedding_size"] *= 2
    (folder / "config.json").write_text(json.dumps(config))
    name, tensors = "model.vision_tower.patch_embedder.position_embedding_table", load_file(weights)
    save_file(tensors | {name: torch.cat([tensors[name]] * 2, dim=1)}, weights)


@pytest.fixture(autouse=True)
def _diorama_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CASTOR_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """What a person types, and then the end of input."""
    rest: Iterator[str] = iter(lines)

    def line(_: str = "") -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", line)


def words_for(verb: str, folder: Path) -> list[str]:
    """The words behind `castor` that have a model answer, learn or be scored, in files below the working folder."""
    if verb == "train":
        own = write_examples(
            Path("own.jsonl"), hears=bool(json.loads((folder / "config.json").read_text()).get("audio_config"))
        )
        settings = ("method=lora", "rank=2", "steps=2", "batch_size=2", "held_out=0.0", "answers=0", "out=run")
        return ["train", "finetune", f"examples={own}", "--model", str(folder), *settings, "device=cpu"]
    given = {"generate": ["hello", "--max-tokens", "3"], "chat": ["--max-tokens", "3"], "eval": ["--limit", "1"]}[verb]
    return [verb, "--model", str(folder), *given]


def test_generate_takes_every_form_with_media(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    Path("a.png").write_bytes(Image.from_pixels(pixels).data)
    words = ["--image", "a.png", "How many?"]
    if json.loads((folder / "config.json").read_text()).get("audio_config"):
        Path("a.wav").write_bytes(Audio.from_samples(np.zeros(4000, np.float32)).data)
        words += ["--audio", "a.wav"]
    assert cli.main([*words_for("generate", folder), *words]) == 0
    assert capsys.readouterr().out.strip()


def test_chat_takes_every_form(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "hello", "and now?", "/quit")
    assert cli.main(words_for("chat", folder)) == 0
    told = capsys.readouterr()
    assert len(told.out.strip().splitlines()) >= 3 and not told.err


def test_train_takes_every_form_and_generate_its_adapter(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words_for("train", folder)) == 0
    assert Path("run/adapter/adapter_model.safetensors").is_file()
    capsys.readouterr()
    assert cli.main([*words_for("generate", folder), "--adapter", "run/adapter"]) == 0
    assert not capsys.readouterr().err  # what a random model says may be nothing at all


def test_eval_takes_every_form(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words_for("eval", folder), "--json", "report.json"]) == 0
    tasks, told = {row["task"] for row in json.loads(Path("report.json").read_text())["rows"]}, capsys.readouterr().out
    assert {"image_question", "caption", "arithmetic", "document"} <= tasks and "Arithmetic" in told
    is_deaf = not json.loads((folder / "config.json").read_text()).get("audio_config")
    assert ("sound_event" in tasks) != is_deaf and ("left out: " in told) == is_deaf


def test_a_model_of_vectors_is_scored_and_does_not_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "base"
    write_base(folder, "embedding_gemma2")
    words = ["eval", "--embedding", "--model", str(folder), "--limit", "8", "--json", "report.json"]
    assert cli.main(words) == 0
    assert Path("report.json").is_file()
    capsys.readouterr()
    for verb in ("generate", "eval"):
        assert cli.main(words_for(verb, folder)) == 2
        told = capsys.readouterr().err
        assert told.splitlines()[-1].startswith("castor: ") and "vector" in told and "Traceback" not in told, told
    assert cli.main(words_for("train", folder)) == 0
    assert "castor embed --model" in capsys.readouterr().out
    vectors = []
    assert cli.main(["merge", str(folder), "run/adapter", "merged"]) == 0
    for words in ([str(folder)], [str(folder), "--adapter", "run/adapter"], ["merged"]):
        assert cli.main(["embed", "--model", *words, "how many circles", "--out", "vectors.npy"]) == 0
        vectors.append(np.load("vectors.npy"))
    plain, adapted, merged = vectors
    assert np.abs(plain - adapted).max() > 0.01 > np.abs(adapted - merged).max()  # saved in bfloat16


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in several shards."""
    path = tmp_path_factory.mktemp("whole") / "base"
    write_base(path, "gemma4_unified")
    assert len(list(path.glob("*.safetensors"))) > 1
    return path


def shard_of(folder: Path, part: str) -> tuple[Path, str]:
    """The shard with a tensor whose name ends so, and that name."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    name = next(name for name in index if name.endswith(part))
    return folder / index[name], name


def truncate(folder: Path) -> str:
    path, _ = shard_of(folder, "layers.1.mlp.up_proj.weight")
    path.write_bytes(path.read_bytes()[:-100])
    return f"{path}: not a complete safetensors file"


def change_type(folder: Path) -> str:
    path, name = shard_of(folder, "layers.1.mlp.up_proj.weight")
    tensors = load_file(path)
    save_file(tensors | {name: tensors[name].to(torch.int8)}, path)
    return f"{path}: {name} is I8; weights are read as F64, F32, F16, BF16"


def remove(folder: Path) -> str:
    path, name = shard_of(folder, "layers.1.mlp.up_proj.weight")
    save_file({key: value for key, value in load_file(path).items() if key != name}, path)
    return f"{folder}: a tensor is missing: {name.removeprefix('model.')}"


def add_option(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["attention_sinks"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    return f"{folder / 'config.json'}: unknown field text_config.attention_sinks=4"


def outgrow(folder: Path) -> str:
    """An embedding for which no machine has the memory, in a sparse file that is a header alone."""
    path, name = shard_of(folder, "embed_tokens.weight")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] = rows = 2**40 // 4 // config["text_config"]["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {key: list(value.shape) for key, value in load_file(path).items()}
    shapes[name][0] = rows
    header, at = {}, 0
    for key, shape in shapes.items():
        size = 4 * torch.Size(shape).numel()
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return f"{folder}: the weights need 1,099.5 GB in float32, "


@pytest.mark.parametrize("spoil", [truncate, change_type, remove, add_option, outgrow])
@pytest.mark.parametrize("verb", VERBS)
def test_a_spoilt_folder_is_one_line_before_any_work(
    verb: str, spoil: Callable[[Path], str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(whole, folder)
    expected = spoil(folder)
    assert cli.main(words_for(verb, folder)) == 2
    told: Any = capsys.readouterr()
    assert told.err.startswith(f"castor: {expected}") and told.err.count("\n") == 1, told.err
    assert not told.out.strip() and not (tmp_path / "run").exists()
