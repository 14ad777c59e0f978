"""Prefill and decode speed of one request beside `transformers`, for any size of the family.

    python bench/decode.py --size nano-1 --rounds 3
    python bench/decode.py --size atom --precision float32 --rounds 5

Writes a text checkpoint of the size with random weights to a temporary folder; both sides map that one file, so that
its weights are in memory once, and answer the same random prompt greedily. "Prefill" is prompt tokens over the seconds
to the first id; "decode" is what each further id costs. Rounds alternate; figures are medians, ratios those of medians.
The ids of both sides are compared first: with random weights in bfloat16, near ties may be decided differently.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from train_speed import WEIGHTS  # beside this file

from castor.runtime import before_torch, hardware, prepare_cpu

Answer = Callable[[list[int], int], list[int]]  # prompt, number of ids -> the ids said
CHUNK = 1 << 24


def write_checkpoint(size: str, folder: Path, precision: str) -> None:
    """Random weights that keep the size of what goes in, drawn once and repeated: drawing billions takes minutes."""
    import torch

    from castor.models.config import ModelConfig
    from castor.models.decoder import Decoder
    from castor.models.load import save_model
    from castor.models.sizes import SIZES

    dtype = getattr(torch, precision)
    text = dataclasses.replace(SIZES[size].text, bos_token_id=None, eos_token_id=None)
    with torch.device("meta"):
        decoder = Decoder(ModelConfig(text=text, model_type="gemma4_unified_text"))
    torch.manual_seed(0)
    drawn = torch.randn(CHUNK + 1)
    starts = itertools.count(0, 7919)
    weights = {}
    for name, meta in decoder.state_dict().items():
        if meta.ndim < 2:
            head = name.endswith(("q_norm.weight", "k_norm.weight"))
            weights[name] = torch.full(meta.shape, meta.shape[0] ** -0.25 if head else 1.0, dtype=dtype)
        else:
            repeated = drawn.roll(next(starts)).repeat(-(-meta.numel() // len(drawn)))[: meta.numel()]
            weights[name] = (repeated.view(meta.shape) * meta.shape[1] ** -0.5).to(dtype)
    decoder.load_state_dict(weights, assign=True)
    save_model(decoder, folder)


def ours(folder: Path, precision: str) -> Answer:
    """The engine, without known beginnings, so that every prompt is read anew."""
    import numpy as np
    import torch

    from castor.engine.engine import Engine, EngineConfig
    from castor.engine.model import Model
    from castor.engine.sample import SamplingConfig
    from castor.models.load import load_model
    from castor.tokens.render import RenderConfig, Renderer
    from castor.tokens.sequence import Sequence
    from castor.tokens.space import IdSpace
    from castor.tokens.text import Tokenizer

    decoder = load_model(folder, dtype=getattr(torch, precision))
    space = IdSpace(num_text=decoder.config.text.vocab_size - 64, num_codes=0)
    model = Model(decoder, Renderer(Tokenizer.load(WEIGHTS), space, RenderConfig()), None)
    engine = Engine(model, EngineConfig(max_rows=1, cache_tokens=4096, reuse_prefixes=False, token_budget=2048))
    everything = torch.ones(space.vocab_size, dtype=torch.bool)
    for grammar in engine._grammars.values():
        grammar.allowed_V = lambda said, **_: everything  # as theirs: no id is kept out

    def answer(prompt: list[int], most: int) -> list[int]:
        ids, no = np.array(prompt, dtype=np.int32), np.zeros(0, dtype=np.int32)
        sequence = Sequence(
            ids_T=ids, is_target_T=ids < 0, block_T=np.full_like(ids, -1), patches_PC=no.reshape(0, 1), clip_S=no,
            patch_xy_P2=no.reshape(0, 2), patch_at_P=no, frames_SF=no.reshape(0, 1).astype(np.float32), frame_at_S=no,
        )  # fmt: skip
        request = engine.submit_tokens(sequence, SamplingConfig(max_tokens=most))
        while engine.step():
            pass
        return request.said_ids

    return answer


def theirs(folder: Path, precision: str) -> Answer:
    """`generate` with its defaults: SDPA, a dynamic cache, logits of the last token alone."""
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, precision)).eval()

    def answer(prompt: list[int], most: int) -> list[int]:
        ids_BT = torch.tensor([prompt])
        with torch.inference_mode():
            said_BT = model.generate(
                ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=most, min_new_tokens=most,
                do_sample=False, eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        return said_BT[0, len(prompt) :].tolist()

    return answer


def figures(answer: Answer, prompt: list[int], most: int, clock: Callable[[], float]) -> dict[str, float]:
    """Tokens a second of reading the prompt and of each further id."""
    seconds = {}
    for count in (1, most):
        start_s = clock()
        assert len(answer(prompt, count)) == count
        seconds[count] = clock() - start_s
    return {"prefill": len(prompt) / seconds[1], "decode": (most - 1) / (seconds[most] - seconds[1])}


def main() -> None:
    """Measure both sides in turn and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="nano-1")
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--prompt", type=int, default=256, help="tokens")
    parser.add_argument("--tokens", type=int, default=17, help="ids of an answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processor-time", action="store_true", help="one thread, seconds of the processor")
    args = parser.parse_args()
    clock = time.process_time if args.processor_time else time.perf_counter
    before_torch()
    import torch

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_checkpoint(args.size, folder, args.precision)
        prepare_cpu(1 if args.processor_time else None)  # not before: from here on freed memory is kept
        sides = {"castor": ours(folder, args.precision), "transformers": theirs(folder, args.precision)}
        prompt = torch.randint(4, 4000, (args.prompt,), generator=torch.Generator().manual_seed(0)).tolist()
        said = [answer(prompt, args.tokens) for answer in sides.values()]  # warms up, too
        same = next((at for at, pair in enumerate(zip(*said, strict=True)) if pair[0] != pair[1]), args.tokens)
        print(f"{hardware()}\n{args.size}, {args.precision}: the first {same} of {args.tokens} ids are the same\n")
        found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for number in range(args.rounds):
            for side, answer in sides.items():
                found[side].append(figures(answer, prompt, args.tokens, clock))
            print(f"round {number + 1}: { {side: rows[-1] for side, rows in found.items()} }", flush=True)
    print(f"\n| Tokens/s | {' | '.join(sides)} | ratio |\n|---|--:|--:|--:|")
    for name in ("prefill", "decode"):
        own, other = (statistics.median(row[name] for row in rows) for rows in found.values())
        print(f"| {name} | {own:,.1f} | {other:,.1f} | {own / other:.2f} |")


if __name__ == "__main__":
    main()
