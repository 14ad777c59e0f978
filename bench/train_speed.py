"""Training and forward speed beside `transformers`: useful tokens a second, same model, same multimodal examples.

    python bench/train_speed.py --rounds 5 --seconds 10
    python bench/train_speed.py --size 0.3b --rounds 3 --seconds 12
    python bench/train_speed.py --finetune --rounds 5 --seconds 10
    python bench/train_speed.py --forward --rounds 5 --seconds 5

The model has the shape of `atom` with linear patches and frames, which `transformers` has too (`gemma4_unified`), or
one of 0.25 billion parameters in layers, and starts from the same weights on both sides. Theirs: batches of examples,
each padded to its longest as their collator does, fused AdamW, one process on all cores. Ours: the rows, processes and
compiled layers of a run, with AdamW as well. With `--finetune`, ours is the step of `castor train finetune` with
`method=full`: batches of as many examples as theirs, in one process. With `--forward`, logits of every token from
weights in the precision, without gradients, ours in one process as well. Padding counts on neither side. Rounds
alternate; the ratio is that of the medians.

`--precision` is that of both sides: bfloat16 (in training as autocast) where the processor multiplies it natively, else
float32, unless it is given. `--processor-time` counts seconds of the processor with one thread, for a machine that is
busy.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from castor.runtime import (
    before_torch,
    best_precision,
    can_compile,
    hardware,
    prepare_cpu,
    threads,
    use_faster_malloc,
)

TASKS = (
    "caption",
    "image_question",
    "image_count",
    "text_reading",
    "chart",
    "sound_event",
    "arithmetic",
    "translation",
)
ROW_TOKENS = 384
SIZES = {"atom": (12, 32), "0.3b": (4, 8)}  # rows of a step of ours; examples in a batch of theirs
NUM_TEXT, NUM_CODES = 4096, 1000
WEIGHTS = Path(__file__).parents[1] / "castor" / "weights" / "atom"


def id_space() -> Any:
    """That of `atom`."""
    from castor.tokens.space import IdSpace

    return IdSpace(num_text=NUM_TEXT, num_codes=NUM_CODES)


@functools.cache
def sequences(count: int = 512) -> list[Any]:
    """Rendered training examples, the same in every process."""
    from castor.diorama.world import World
    from castor.tokens.render import RenderConfig, Renderer
    from castor.tokens.text import Tokenizer

    config = RenderConfig(patch_size=16, image_tokens=64, frames_per_token=4)
    renderer = Renderer(Tokenizer.load(WEIGHTS), id_space(), config)
    world, rng = World(seed=0, split="train", speech=False), random.Random(0)
    return [renderer.encode(world.example(rng.choice(TASKS), index).messages) for index in range(count)]


def config(size: str = "atom") -> Any:
    """`atom` without its convolutions, which `transformers` does not have; or wider and deeper."""
    from castor.models.config import AudioConfig, VisionConfig
    from castor.models.sizes import SIZES as FAMILY

    text = FAMILY["atom"].text
    if size == "0.3b":
        text = dataclasses.replace(
            text,
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=16,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=256,
            global_head_dim=256,
            layer_types=None,
        )
    vision = VisionConfig(patch_size=16, pooling_kernel_size=1, mm_embed_dim=text.hidden_size, mm_posemb_size=64)
    audio = AudioConfig(audio_embed_dim=320)
    return dataclasses.replace(FAMILY["atom"], text=text, vision=vision, audio=audio, model_type="gemma4_unified")


def batches(num_rows: int, first: int, stride: int = 1) -> Iterator[Any]:
    """Packed batches without end; batch i is made of the examples from a place that depends on i."""
    from castor.data.loader import BatchStats, LoadedBatch
    from castor.tokens.pack import pack

    made = sequences()
    for index in itertools.count(first, stride):
        start = index * 37
        chosen, tokens = [], 0
        while tokens < num_rows * ROW_TOKENS:
            chosen.append(made[(start + len(chosen)) % len(made)])
            tokens += len(chosen[-1])
        batch, _ = pack(chosen, num_rows=num_rows, row_tokens=ROW_TOKENS)
        yield LoadedBatch(index, batch, BatchStats())


def build(size: str, compiled: bool) -> tuple[Any, Any]:
    """The decoder of a training process, and its loss."""
    import torch

    from castor.models.decoder import Decoder
    from castor.train.objective import next_token

    with torch.device("meta"):
        decoder = Decoder(config(size))
    if compiled:
        decoder.compile_layers()
    return decoder, next_token(decoder, id_space().first_code)


def ours(decoder: Any, workers: Any, stream: Callable[..., Iterator[Any]], precision: Any) -> Callable[[], int]:
    """A function that makes one step and gives its useful tokens."""
    from castor.train.fit import FitConfig, Trainer
    from castor.train.objective import next_token
    from castor.train.optim import OptimConfig

    optim = OptimConfig(name="adamw", learning_rate=1e-4, other_learning_rate=1e-4)
    trainer = Trainer(decoder, FitConfig(num_steps=10**6, optim=optim, precision=precision), Path(), workers)
    loss, steps, given = next_token(decoder, id_space().first_code), itertools.count(), trainer.stream(stream, 0)
    return lambda: int(trainer.train_step(loss, given, next(steps))["tokens"])


def finetune_batches(batch_size: int, first: int) -> Iterator[Any]:
    """Batches as fine-tuning packs them: the same examples at a time as theirs."""
    from castor.data.epochs import packed
    from castor.data.loader import BatchStats, LoadedBatch

    assert first == 0
    for index, chosen in enumerate(taken(batch_size)):
        yield LoadedBatch(index, packed(chosen, ROW_TOKENS), BatchStats())


def padded(chosen: list[Any]) -> dict[str, Any]:
    """What transformers takes: every example padded to the longest, pictures and clips stacked."""
    import numpy as np
    import torch

    longest = max(len(s) for s in chosen)
    ids, kinds, labels, mask = (np.full((len(chosen), longest), fill) for fill in (0, 0, -100, 0))
    pictures, places, clips = [], [], []
    for row, s in enumerate(chosen):
        length = len(s)
        ids[row, :length], mask[row, :length] = s.ids_T, 1
        labels[row, :length] = np.where(s.is_target_T, s.ids_T, -100)
        kinds[row, s.patch_at_P], kinds[row, s.frame_at_S] = 1, 3
        for block in sorted(set(s.block_T[s.patch_at_P].tolist())):
            inside = s.block_T[s.patch_at_P] == block
            pictures.append(torch.from_numpy(s.patches_PC[inside]).float() / 255)
            places.append(torch.from_numpy(s.patch_xy_P2[inside]).long())
        if len(s.frames_SF):
            clips.append(torch.from_numpy(s.frames_SF))
    inputs = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": kinds, "labels": labels}
    inputs = {name: torch.from_numpy(value).long() for name, value in inputs.items()}
    if pictures:
        inputs |= {"pixel_values": torch.stack(pictures), "image_position_ids": torch.stack(places)}
    if clips:
        lengths = torch.tensor([len(clip) for clip in clips])
        features = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        inputs |= {
            "input_features": features,
            "input_features_mask": torch.arange(features.shape[1]) < lengths[:, None],
        }
    return inputs


def theirs(folder: str, batch_size: int, precision: str) -> Callable[[], int]:
    """A function that makes one step of transformers' model and gives its useful tokens."""
    import torch
    import transformers

    model = transformers.Gemma4UnifiedForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    chosen_next = taken(batch_size)

    def step() -> int:
        chosen = next(chosen_next)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            loss = model(**padded(chosen)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return sum(len(s) for s in chosen)

    return step


def taken(batch_size: int) -> Iterator[list[Any]]:
    """So many examples at a time, without end."""
    made = sequences()
    for start in itertools.count(0, batch_size):
        yield [made[(start + i) % len(made)] for i in range(batch_size)]


def forward_steps(
    decoder: Any, folder: str, num_rows: int, batch_size: int, precision: str
) -> dict[str, Callable[[], int]]:
    """For each side a function that computes the logits of one batch and gives its useful tokens."""
    import copy

    import torch
    import transformers

    dtype = getattr(torch, precision)
    model = copy.deepcopy(decoder).to(dtype).eval()
    peer = transformers.Gemma4UnifiedForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
    stream, chosen_next = batches(num_rows, 0), taken(batch_size)

    @torch.inference_mode()
    def our_step() -> int:
        batch = next(stream).batch
        model(batch)
        return int((batch.doc_BT >= 0).sum())

    @torch.inference_mode()
    def their_step() -> int:
        chosen = next(chosen_next)
        given = {name: x.to(dtype) if x.is_floating_point() else x for name, x in padded(chosen).items()}
        del given["labels"]
        peer(**given)
        return sum(len(s) for s in chosen)

    return {"castor": our_step, "transformers": their_step}


def rate(step: Callable[[], int], seconds: float, clock: Callable[[], float]) -> float:
    """Useful tokens a second."""
    start_s, tokens = clock(), 0
    while clock() - start_s < seconds:
        tokens += step()
    return tokens / (clock() - start_s)


def compare(steps: dict[str, Callable[[], int]], num_threads: dict[str, int], args: argparse.Namespace) -> None:
    """Both sides in turn, after a while of each that does not count; prints one table."""
    clock = time.process_time if args.processor_time else time.monotonic
    rates: dict[str, list[float]] = {side: [] for side in steps}
    for number in range(args.rounds + 1):
        for side, step in steps.items():
            with threads(num_threads[side]):
                rates[side].append(rate(step, args.seconds if number else min(3, args.seconds), clock))
        if number:
            print(f"round {number}: " + ", ".join(f"{name} {found[-1]:,.0f}" for name, found in rates.items()))
    medians = {name: statistics.median(found[1:]) for name, found in rates.items()}
    unit = "processor second, one thread" if args.processor_time else "s"
    print(f"\n{hardware()}; {args.precision}\n\n| Side | Useful tokens/{unit} |\n|---|--:|")
    for name, median in medians.items():
        print(f"| {name} | {median:,.0f} |")
    print(f"\nratio {medians['castor'] / medians['transformers']:.2f}")


def parsed() -> argparse.Namespace:
    """What is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="atom", choices=tuple(SIZES))
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--forward", action="store_true", help="logits alone, no training")
    kinds.add_argument("--finetune", action="store_true", help="the step of fine-tuning instead of a run's")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default=best_precision("cpu"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each side in each round")
    parser.add_argument("--processes", type=int, default=min(4, os.cpu_count() or 1), help="of ours, in training")
    parser.add_argument("--processor-time", action="store_true", help="seconds of the processor, one thread")
    parser.add_argument("--eager", action="store_true", help="do not compile ours")
    args = parser.parse_args()
    if args.processor_time or args.finetune:
        args.processes = 1
    return args


def main() -> None:
    """Measure both sides in turn and print one table."""
    args = parsed()
    use_faster_malloc()
    before_torch()
    prepare_cpu(1 if args.processor_time else None)
    from castor.models.decoder import Decoder
    from castor.models.load import save_model
    from castor.train.workers import Workers

    num_rows, batch_size = SIZES[args.size]
    decoder = Decoder(config(args.size)).init_weights(0)
    compiled = can_compile() and not args.eager and not args.finetune
    all_cores = 1 if args.processor_time else os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        save_model(decoder, folder)
        if args.forward:
            steps = forward_steps(decoder, folder, num_rows, batch_size, args.precision)
            compare(steps, dict.fromkeys(steps, all_cores), args)
            return
        their_step = theirs(folder, batch_size, args.precision)
    if args.finetune:
        our_step = ours(decoder, None, functools.partial(finetune_batches, batch_size), args.precision)
        compare(
            {"castor": our_step, "transformers": their_step}, dict.fromkeys(("castor", "transformers"), all_cores), args
        )
        return
    if compiled:
        decoder.compile_layers()
    builder, share = functools.partial(build, args.size, compiled), num_rows // args.processes
    with Workers(decoder, builder, args.processes - 1, precision=args.precision) as workers:
        our_step = ours(decoder, workers, functools.partial(batches, max(1, share)), args.precision)
        compare({"castor": our_step, "transformers": their_step}, {"castor": 1, "transformers": all_cores}, args)


if __name__ == "__main__":
    main()
