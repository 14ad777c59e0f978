"""Loading weights: every way a folder can be wrong, on real files, before any work; and what loading costs."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from castor.models.config import ModelConfig, TextConfig
from castor.models.decoder import Decoder
from castor.models.load import load_config, load_model, save_model
from castor.models.shards import MappedFile, read_headers

SHARDS = 3


def small_model() -> Decoder:
    """Six layers of 32, text only."""
    text = TextConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        global_head_dim=16,
    )
    return Decoder(ModelConfig(text=text)).init_weights(0)


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """A complete checkpoint in three shards."""
    save_model(small_model(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    weight_map = {}
    for shard in range(SHARDS):
        name = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        part = dict(list(tensors.items())[shard::SHARDS])
        save_file(part, tmp_path / name)
        weight_map |= dict.fromkeys(part, name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return tmp_path


def shard(folder: Path, number: int = 1) -> Path:
    return folder / f"model-{number:05d}-of-{SHARDS:05d}.safetensors"


def change(path: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Rewrite a shard with its tensors edited."""
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    edit(tensors)
    save_file(tensors, path)


def change_config(folder: Path, part: str | None, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (config[part] if part else config).update(values)
    (folder / "config.json").write_text(json.dumps(config))


def refusal(folder: Path) -> str:
    """The one line that loading ends with."""
    with pytest.raises(ValueError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def test_shards_equal_what_was_saved(folder: Path) -> None:
    wanted, got = small_model().state_dict(), load_model(folder).state_dict()
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float32])
def test_type_is_the_one_asked_for(folder: Path, dtype: torch.dtype) -> None:
    wanted, got = small_model().state_dict(), load_model(folder, dtype=dtype).state_dict()
    assert all(torch.equal(wanted[name].to(dtype), got[name]) and got[name].dtype == dtype for name in wanted)


def test_weights_of_the_saved_type_are_the_files_own_pages(folder: Path) -> None:
    saved = read_headers([shard(folder)])[0]
    file = MappedFile(saved.path)
    one, two = (file.tensor(saved, device="cpu", dtype=torch.float32) for _ in range(2))
    assert one.data_ptr() == two.data_ptr()
    before = saved.path.read_bytes()
    one.zero_()  # a private page: training on loaded weights never writes to the file
    assert saved.path.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 100, 100_000])
def test_truncated_shard(folder: Path, cut: int) -> None:
    path = shard(folder, 2)
    path.write_bytes(path.read_bytes()[:-cut])
    assert "00002" in refusal(folder) and "not a complete safetensors file" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"12345", b"\xff" * 64, struct.pack("<Q", 4) + b"nope"])
def test_foreign_file(folder: Path, content: bytes) -> None:
    shard(folder).write_bytes(content)
    assert "not a complete safetensors file" in refusal(folder)


def test_pointer_of_git_lfs(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")
    assert f"{shard}: a pointer of Git LFS" in refusal(folder)


def test_offsets_that_lie_elsewhere(folder: Path) -> None:
    header = json.dumps({"model.language_model.norm.weight": {"dtype": "F32", "shape": [32], "data_offsets": [0, 8]}})
    shard(folder).write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(8))
    assert "8 bytes for F32 of shape [32]" in refusal(folder)


def test_integer_weights(folder: Path) -> None:
    name = next(iter(load_file(shard(folder))))
    change(shard(folder), lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    message = refusal(folder)
    assert name in message and "is I8" in message and "BF16" in message


def test_missing_and_unexpected_tensors(folder: Path) -> None:
    names = [name for name in load_file(shard(folder)) if "layer_scalar" not in name]
    change(shard(folder), lambda tensors: [tensors.pop(name) for name in names[:2]])
    assert "2 tensors are missing" in refusal(folder) and names[0].removeprefix("model.") in refusal(folder)
    change(shard(folder), lambda tensors: tensors.update(stray=torch.zeros(2)))
    assert "stray is not part of this model" in refusal(folder)


def test_wrong_shape(folder: Path) -> None:
    change(
        shard(folder),
        lambda tensors: tensors.update({name: tensor[..., :3].clone() for name, tensor in tensors.items()}),
    )
    assert "has shape" in refusal(folder) and ", not [" in refusal(folder)


def test_one_tensor_in_two_shards(folder: Path) -> None:
    name, tensor = next(iter(load_file(shard(folder, 1)).items()))
    change(shard(folder, 3), lambda tensors: tensors.update({name: tensor}))
    assert f"{name} is also in {shard(folder, 1).name}" in refusal(folder)


def test_unknown_option(folder: Path) -> None:
    change_config(folder, "text_config", slidin_window=512)
    assert "unknown field text_config.slidin_window=512; did you mean 'sliding_window'?" in refusal(folder)


def test_option_of_another_program_is_no_obstacle(folder: Path) -> None:
    change_config(folder, None, transformers_version="9.0", torch_dtype="bfloat16")
    change_config(folder, "text_config", use_cache=False)
    assert load_config(folder).text.hidden_size == 32


def test_index_names_a_file_that_is_not_there(folder: Path) -> None:
    shard(folder, 2).unlink()
    assert "index.json: names 'model-00002-of-00003.safetensors'" in refusal(folder)
    assert "1 of 3" in refusal(folder)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/passwd", "pytorch_model-00001.bin"])
def test_index_that_leads_elsewhere(folder: Path, name: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    assert repr(name) in refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "weights.pt"])
def test_pickle_is_refused_unread(tmp_path: Path, name: str) -> None:
    save_model(small_model(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    assert f"{name} is pickle" in refusal(tmp_path)


def test_too_little_memory_says_both_numbers(tmp_path: Path) -> None:
    """A sparse file of a model far larger than any machine here: its header alone takes room on the disk."""
    big = 1 << 40
    config = small_model().config
    save_model(small_model(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    rows = big // 4 // config.text.hidden_size
    change_config(tmp_path, "text_config", vocab_size=rows)
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    shapes["model.language_model.embed_tokens.weight"][0] = rows
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    message = refusal(tmp_path)
    assert "the weights need 1,099.5 GB in the saved type" in message and "GB are free on cpu" in message
    with pytest.raises(ValueError, match=r"need 549\.\d GB in bfloat16"):
        load_model(tmp_path, dtype=torch.bfloat16)


PEAK = """
import resource, sys, torch
from castor.models.load import load_model
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = load_model(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
total = sum(float(p.detach().float().sum()) for p in model.parameters())  # every page is touched
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_never_twice_in_memory(tmp_path: Path, dtype: str) -> None:
    """The peak of a fresh process stays below the loaded weights plus half of them again (their largest tensor)."""
    text = TextConfig(
        vocab_size=4096,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=128,
        global_head_dim=128,
    )
    model = Decoder(ModelConfig(text=text))
    save_model(model.init_weights(0), tmp_path)
    on_disk = (tmp_path / "model.safetensors").stat().st_size
    result = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), dtype], capture_output=True, text=True, check=True, timeout=120
    )
    peak = int(result.stdout) * 1024
    loaded = on_disk if dtype == "float32" else on_disk // 2
    assert peak < 1.5 * loaded, f"peak {peak / 1e6:.0f} MB for {loaded / 1e6:.0f} MB of weights"


@pytest.mark.parametrize("name", ["Gemma4Config", "Gemma4UnifiedConfig", "EmbeddingGemma2Config"])
def test_every_field_that_transformers_writes_is_known(name: str, tmp_path: Path) -> None:
    """All fields of all parts, defaults too: what published config.json files are made of."""
    transformers = pytest.importorskip("transformers")
    parts = ("text_config", "vision_config", "audio_config")
    config = getattr(transformers, name)(**{part: {} for part in parts})
    (tmp_path / "config.json").write_text(config.to_json_string(use_diff=False))
    loaded = load_config(tmp_path)
    assert loaded.vision is not None and loaded.audio is not None
