"""GGUF read back by the package's own reader: every tensor, the config, the tokenizer."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from castor import cli
from castor.models.load import load_model
from castor.tokens.pack import collate
from castor.tokens.text_json import load_tokenizer

gguf = pytest.importorskip("gguf")
published = pytest.importorskip("published")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    published.write_checkpoint(path)
    (path / "chat_template.jinja").write_text("{{ bos_token }}")
    return path


def read_back(folder: Path, path: Path, kind: str) -> gguf.GGUFReader:
    assert cli.main(["export", str(folder), "--gguf", str(path), "--type", kind]) == 0
    return gguf.GGUFReader(path)


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_tensors_come_back(folder: Path, tmp_path: Path, kind: str) -> None:
    reader = read_back(folder, tmp_path / "model.gguf", kind)
    model = load_model(folder)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA4, 6)
    found = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape(t.shape[::-1]) for t in reader.tensors}
    factors = found.pop("rope_freqs.weight")
    assert factors.tolist() == [1.0, 1.0] + [np.float32(1e30)] * 6  # a quarter of the 8 pairs turns
    wanted = {}
    for name, tensor in model.language_model.state_dict().items():
        stem = name.removesuffix(".weight")
        tensor = tensor.to(getattr(torch, kind)).float() if tensor.ndim > 1 else tensor
        wanted[f"{names.get_name(f'model.{stem}')}.weight"] = tensor.numpy()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)
    known = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[gguf.MODEL_ARCH.GEMMA4]}
    assert all(any(name.startswith(k.split("{")[0]) for k in known) for name in found)


def test_config_and_tokenizer_come_back(folder: Path, tmp_path: Path) -> None:
    reader = read_back(folder, tmp_path / "model.gguf", "float32")
    value = {name: field.contents() for name, field in reader.fields.items()}
    assert value["general.architecture"] == "gemma4" and value["tokenizer.ggml.model"] == "gemma4"
    assert value["gemma4.attention.head_count_kv"] == [2, 2, 2, 2, 2, 1]
    assert value["gemma4.attention.sliding_window_pattern"] == [True] * 5 + [False]
    assert (value["gemma4.attention.key_length"], value["gemma4.attention.key_length_swa"]) == (16, 8)
    assert value["gemma4.final_logit_softcapping"] == 30.0 and value["gemma4.rope.freq_base_swa"] == 10_000.0
    tokenizer = load_tokenizer(folder)
    tokens, kinds = value["tokenizer.ggml.tokens"], value["tokenizer.ggml.token_type"]
    assert len(tokens) == len(kinds) == 704 and tokens[: tokenizer.vocab_size] == tokenizer.pieces(
        range(tokenizer.vocab_size)
    )
    assert kinds[tokenizer.specials["<|turn>"]] == gguf.TokenType.CONTROL
    assert kinds[tokenizer.specials["<|channel>"]] == gguf.TokenType.USER_DEFINED
    assert kinds[tokens.index("<0x0A>")] == gguf.TokenType.BYTE and kinds[-1] == gguf.TokenType.UNUSED
    merges = json.loads(tokenizer.model)["model"]["merges"]
    assert value["tokenizer.ggml.merges"] == [m if isinstance(m, str) else " ".join(m) for m in merges]
    assert value["tokenizer.ggml.eot_token_id"] == tokenizer.specials["<turn|>"]
    assert value["tokenizer.chat_template"] == "{{ bos_token }}"


def test_llama_cpp_gives_the_same_log_probabilities(folder: Path, tmp_path: Path) -> None:
    """Its own program reads the file: the same ids for a text, and every next id as likely. Needs llama.cpp."""
    program = shutil.which("llama-perplexity", path=os.environ.get("LLAMA_CPP"))
    if program is None:
        pytest.skip("llama-perplexity is neither on the PATH nor in the folder LLAMA_CPP")
    import castor

    read_back(folder, tmp_path / "model.gguf", "float32")
    # llama.cpp cuts at line breaks first, which Gemma's own pieces never cross; those of this tokenizer do
    text = " ".join(line for line in published.LINES if "\n" not in line) * 12
    (tmp_path / "text").write_text(text)
    files = ["-m", tmp_path / "model.gguf", "-f", tmp_path / "text", "--kl-divergence-base", tmp_path / "found"]
    exact = ["-fa", "off", "-ctk", "f32", "-ctv", "f32", "--no-warmup", "--no-escape", "-t", "1"]
    sizes = ["-c", "64", "-b", "64", "--chunks", "3"]
    subprocess.run([program, *map(str, files), *exact, *sizes], check=True, capture_output=True)
    data = (tmp_path / "found").read_bytes()
    width, vocab_size, num_chunks = struct.unpack("<Iii", data[8:20])
    ids_NT = np.frombuffer(data, np.int32, num_chunks * width, 20).reshape(num_chunks, width)
    model = castor.load(folder, device="cpu")
    bos = model.tokenizer.specials["<bos>"]
    assert [bos, *model.tokenizer.encode(text)][: ids_NT.size] == ids_NT.flatten().tolist()
    # A row: factor and least value as two floats, then 16 bits an id; of the latter half of each chunk
    rows = np.frombuffer(data, np.uint16, offset=20 + ids_NT.nbytes).reshape(num_chunks, -1, vocab_size + 4)
    factor, least = rows[..., :4].copy().view(np.float32).transpose(2, 0, 1)[..., None]
    theirs = torch.from_numpy(factor * rows[..., 4:] + least)
    ids = torch.from_numpy(ids_NT.astype(np.int64))
    ids[:, 0] = bos
    places = torch.arange(width).expand(num_chunks, -1)
    batch = dataclasses.replace(collate([[]] * num_chunks, width), ids_BT=ids, position_BT=places, doc_BT=places * 0)
    with torch.inference_mode():
        ours = model.decoder(batch)[:, width // 2 : -1].log_softmax(-1)
    assert (ours - theirs).abs().max() < 5e-4


def test_what_cannot_be_exported_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "atom", "--gguf", str(tmp_path / "a.gguf")]) == 2
    assert "only a published checkpoint can be exported" in capsys.readouterr().err
    assert cli.main(["export", str(folder), "--gguf", str(tmp_path / "a.gguf"), "--type", "int3"]) == 2
    assert "'int3' is not one of" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
