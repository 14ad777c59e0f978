"""Answering speed beside `transformers`: many requests at once, one alone, and the first token after a known picture.

    python bench/engine.py --requests 16

Both sides answer the same prompts, every second one with a picture, with answers of 8 to 64 tokens, greedily, in
float32. `transformers` answers them in batches of fixed members (padded, as long as the longest answer takes); the
engine lets requests join and leave. Its continuous batching takes no pictures: see together.py. The model has the shape
of `atom` with linear patches, which `transformers` has too, with random weights; the shipped `atom` goes through the
engine as well. Only tokens that were asked for count.
`--processor-time` measures seconds of the processor with one thread, for a machine that is busy.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from train_speed import WEIGHTS, config, id_space  # beside this file

from castor.runtime import before_torch, hardware, prepare_cpu

CONCURRENT = (1, 4, 16)


def conversations(count: int, kinds: tuple[str, ...] = ("arithmetic", "image_question")) -> list[tuple[list[Any], int]]:
    """Prompts of these tasks in turn, every second one with a picture, and the length of each answer."""
    from castor.diorama.world import World

    world, rng = World(seed=0, split="test", speech=False), random.Random(0)
    tasks = itertools.cycle(kinds)
    return [(list(world.example(next(tasks), index).prompt), rng.randint(8, 64)) for index in range(count)]


def linear_model() -> Any:
    """A model of random weights that `transformers` can hold too, and that neither ends its turn nor draws."""
    import torch

    from castor.engine.model import Model
    from castor.models.decoder import Decoder
    from castor.tokens.render import RenderConfig, Renderer
    from castor.tokens.text import Tokenizer

    space = id_space()
    renderer = Renderer(
        Tokenizer.load(WEIGHTS), space, RenderConfig(patch_size=16, image_tokens=64, frames_per_token=4)
    )
    decoder = Decoder(dataclasses.replace(config(), model_type="gemma4_unified")).init_weights(0)
    with torch.no_grad():  # a logit of zero is never the highest
        decoder.output_weight_VD[[0, 1, 2, 3]] = 0
        decoder.output_weight_VD[space.num_text :] = 0
    return Model(decoder, renderer, None)


def ours(model: Any, asked: list[tuple[list[Any], int]], num_rows: int) -> list[list[int]]:
    """The ids said when everything is answered, `num_rows` at once."""
    from castor.engine.engine import Engine, EngineConfig
    from castor.engine.sample import SamplingConfig

    engine = Engine(model, EngineConfig(max_rows=num_rows, cache_tokens=16_384, reuse_prefixes=False))
    requests = [engine.submit(messages, SamplingConfig(max_tokens=most)) for messages, most in asked]
    while engine.step():
        pass
    return [request.said_ids for request in requests]


def theirs(peer: Any, renderer: Any, asked: list[tuple[list[Any], int]], num_rows: int) -> list[list[int]]:
    """The same in batches of `num_rows`, each cut to what was asked for."""
    import torch

    said: list[list[int]] = []
    for start in range(0, len(asked), num_rows):
        batch = asked[start : start + num_rows]
        inputs = left_padded([renderer.encode(messages, reply=True) for messages, _ in batch])
        with torch.inference_mode():
            longest = max(most for _, most in batch)
            ids_BT = peer.generate(**inputs, max_new_tokens=longest, do_sample=False, eos_token_id=None)
        answers = ids_BT[:, inputs["input_ids"].shape[1] :].tolist()
        said += [ids[:most] for ids, (_, most) in zip(answers, batch, strict=True)]
    return said


def left_padded(chosen: list[Any]) -> dict[str, Any]:
    """What their `generate` takes."""
    import numpy as np
    import torch

    longest = max(len(s) for s in chosen)
    ids, kinds, mask = (np.zeros((len(chosen), longest), dtype=np.int64) for _ in range(3))
    pictures, places = [], []
    for row, s in enumerate(chosen):
        first = longest - len(s)
        ids[row, first:], mask[row, first:] = s.ids_T, 1
        kinds[row, first + s.patch_at_P] = 1
        if len(s.patches_PC):
            pictures.append(torch.from_numpy(s.patches_PC).float() / 255)
            places.append(torch.from_numpy(s.patch_xy_P2).long())
    inputs = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": kinds}
    inputs = {name: torch.from_numpy(value) for name, value in inputs.items()}
    if pictures:
        inputs |= {"pixel_values": torch.stack(pictures), "image_position_ids": torch.stack(places)}
    return inputs


def first_token(model: Any, clock: Callable[[], float], *, is_known: bool) -> float:
    """Seconds to the first token of a question about three pictures, after another question about them or others."""
    from castor.content import Image, Message
    from castor.engine.engine import Engine, EngineConfig
    from castor.engine.sample import SamplingConfig

    def pictures(seed: int) -> list[Any]:
        import numpy as np

        rng = np.random.default_rng(seed)
        return [Image.from_pixels(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(3)]

    engine = Engine(model, EngineConfig(cache_tokens=4096), clock=clock)
    for seed, question in (
        (1, "What shape is at the top left?"),
        (1 if is_known else 2, "How many red shapes are there?"),
    ):
        request = engine.submit([Message.user(*pictures(seed), question)], SamplingConfig(max_tokens=1))
        while engine.step():
            pass
    return request.result().first_s or 0.0


def alone(answer: Callable[[int], object], clock: Callable[[], float]) -> float:
    """Tokens a second of one text request, without its prompt."""
    seconds = {}
    for most in (1, 65):
        start_s = clock()
        answer(most)
        seconds[most] = clock() - start_s
    return 64 / (seconds[65] - seconds[1])


def rate(answer: Callable[[], list[list[int]]], clock: Callable[[], float]) -> float:
    """Tokens a second."""
    start_s = clock()
    return sum(map(len, answer())) / (clock() - start_s)


def main() -> None:
    """Measure everything in turn, round by round, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processor-time", action="store_true")
    args = parser.parse_args()
    before_torch()
    prepare_cpu(1 if args.processor_time else None)
    import transformers

    import castor
    from castor.models.load import save_model

    clock = time.process_time if args.processor_time else time.perf_counter
    atom, linear, asked = castor.load("atom", device="cpu"), linear_model(), conversations(args.requests)
    with tempfile.TemporaryDirectory() as folder:
        save_model(linear.decoder, folder, dtype=linear.decoder.output_weight_VD.dtype)
        peer = transformers.Gemma4UnifiedForConditionalGeneration.from_pretrained(folder, dtype="float32").eval()
    sides: dict[str, Callable[[list[tuple[list[Any], int]], int], list[list[int]]]] = {
        "transformers, linear": lambda given, rows: theirs(peer, linear.renderer, given, rows),
        "engine, linear": lambda given, rows: ours(linear, given, rows),
        "engine, atom": lambda given, rows: ours(atom, given, rows),
    }
    pairs = zip(theirs(peer, linear.renderer, asked, 1), ours(linear, asked, len(asked)), strict=True)
    print(f"the same ids on both sides: {sum(a == b for a, b in pairs)} of {len(asked)} answers\n")
    text = asked[0][0]
    found: dict[tuple[str, str], list[float]] = {}
    for number in range(args.rounds + 1):  # the first warms up
        for side, answer in sides.items():
            row = {f"{rows} at once": rate(lambda a=answer, r=rows: a(asked, r), clock) for rows in CONCURRENT}
            if side != "engine, atom":  # which ends when it is done
                row["decode alone"] = alone(lambda most, a=answer: a([(text, most)], 1), clock)
            for name, value in row.items():
                found.setdefault((side, name), []).extend([value] * (number > 0))
        for name, is_known in (("others", False), ("the same", True)):
            found.setdefault(("first token", name), []).extend(
                [first_token(atom, clock, is_known=is_known) * 1000] * (number > 0)
            )
    unit = "processor second, one thread" if args.processor_time else "second"
    names = [*(f"{rows} at once" for rows in CONCURRENT), "decode alone"]
    print(f"{hardware()}\n\nTokens a {unit}\n\n| Side | {' | '.join(names)} |\n|---|{'--:|' * len(names)}")
    for side in sides:
        cells = [f"{statistics.median(found[side, name]):,.0f}" if (side, name) in found else "–" for name in names]
        print(f"| {side} | {' | '.join(cells)} |")
    others, known = (statistics.median(found["first token", name]) for name in ("others", "the same"))
    print(f"\nFirst token of atom after three pictures: {others:.1f} ms; where they are in the cache: {known:.1f} ms")
    print(f"ratio {others / known:.1f}; ratios of the linear shape to transformers:", end=" ")
    medians = {key: statistics.median(values) for key, values in found.items()}
    print(
        ", ".join(
            f"{name} {medians['engine, linear', name] / medians['transformers, linear', name]:.2f}" for name in names
        )
    )


if __name__ == "__main__":
    main()
