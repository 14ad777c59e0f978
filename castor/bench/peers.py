"""Other programs on the same shape, random weights: transformers where it is installed, llama.cpp where it is built."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch

from castor.bench.subject import random_model, text_shape
from castor.models.config import ModelConfig

LLAMA_FILES = {None: "bf16", "int4": "q4_0", "int8": "q8_0"}


@dataclass(frozen=True, kw_only=True)
class PeerPoint:
    """What another program reaches: tokens a second of prompts and answers of one request."""

    name: str
    context: int
    prefill_per_s: float
    decode_per_s: float


def transformers_points(
    config: ModelConfig, dtype: torch.dtype, device: str, contexts: tuple[int, ...], *, tokens: int, rounds: int
) -> list[PeerPoint]:
    """One request at a time through `generate`, greedily, with the text side of this shape; [] without transformers."""
    if find_spec("transformers") is None:
        return []
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(text_shape(config).to_hf()))
        theirs = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_config(theirs, dtype=dtype).to(device).eval()
    points = []
    for context in contexts:
        most = config.text.vocab_size  # ids of words, as far as there are enough of them
        ids_BT = torch.randint(min(300, most // 4), most - min(300, most // 4), (1, context), device=device)

        def seconds(count: int, ids_BT: torch.Tensor = ids_BT) -> float:
            start_s = time.perf_counter()
            with torch.inference_mode():
                model.generate(ids_BT, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0)
            return time.perf_counter() - start_s

        seconds(2)
        firsts = [seconds(1) for _ in range(rounds)]
        wholes = [seconds(tokens + 1) for _ in range(rounds)]
        first_s, whole_s = median(firsts), median(wholes)
        points.append(
            PeerPoint(
                name=f"transformers {'bf16' if dtype == torch.bfloat16 else 'f32'}",
                context=context,
                prefill_per_s=context / first_s,
                decode_per_s=tokens / (whole_s - first_s),
            )
        )
    return points


@dataclass(frozen=True)
class _Pieces:
    """A vocabulary for a file that is only measured."""

    vocab_size: int = 262
    specials: Any = None
    model: bytes = b'{"model": {"merges": ["<0x61> <0x62>"]}}'

    def pieces(self, ids: range) -> list[str]:
        names = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "ab"]
        return [names[i] for i in ids]


def pieces() -> Any:
    """What a GGUF file has in place of a tokenizer."""
    return _Pieces(specials={"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3})


def llama_points(
    config: ModelConfig,
    quantize: str | None,
    folder: str | None,
    contexts: tuple[int, ...],
    *,
    tokens: int,
    rounds: int,
    threads: int,
) -> list[PeerPoint]:
    """llama-bench on a GGUF file of this shape, quantised by llama.cpp's own program; [] where it is not built."""
    bench, quantise = (shutil.which(name, path=folder) for name in ("llama-bench", "llama-quantize"))
    if bench is None or find_spec("gguf") is None or (quantize and quantise is None):
        return []
    from castor.models.gguf import write_gguf

    kind = LLAMA_FILES[quantize]
    with tempfile.TemporaryDirectory() as temporary:
        whole, file = Path(temporary) / "whole.gguf", Path(temporary) / f"{kind}.gguf"
        model = random_model(text_shape(config), None, torch.bfloat16, "cpu")
        write_gguf(whole, model.decoder, pieces())
        del model
        if quantize is None:
            file = whole
        else:
            _run([str(quantise), str(whole), str(file), kind.upper(), str(threads)])
            whole.unlink()
        sizes = [word for context in contexts for word in ("-p", str(context))]
        command = [str(bench), "-m", str(file), "-t", str(threads), *sizes, "-n", str(tokens), "-r", str(rounds)]
        rows = json.loads(_run([*command, "-o", "json"]))
    read = {row["n_prompt"]: median(row["samples_ts"]) for row in rows if not row["n_gen"]}
    written = next(median(row["samples_ts"]) for row in rows if row["n_gen"])
    return [
        PeerPoint(name=f"llama.cpp {kind}", context=context, prefill_per_s=read[context], decode_per_s=written)
        for context in contexts
    ]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout
