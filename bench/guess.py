"""What guesses ahead are worth (`castor chat --guess N`): one answer at a time, task by task, with and without them.

    python bench/guess.py --count 12
    python bench/guess.py --model FOLDER --quantize int4 --guesses 2,4,8

Answers of the small world's test split, greedy but for pictures, which are drawn at their own temperature; the same ids
with and without, which is checked. Tokens a step are those of all steps that write; speed is tokens a second of
writing, without reading the prompt, as a ratio to no guesses. `--processor-time` counts seconds of the processor with
one thread, for a machine that is busy.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from castor.runtime import before_torch, hardware, prepare_cpu

TASKS = ("drawing", "interleaved", "arithmetic", "reasoning", "dialogue", "caption", "image_question", "translation")


def write(model: Any, prompt: list[Any], number: int, clock: Callable[[], float]) -> tuple[list[int], int, float]:
    """Ids of one answer, the steps that wrote it after its first id, and their seconds."""
    from castor.engine.engine import Engine, EngineConfig
    from castor.engine.sample import SamplingConfig

    engine = Engine(model, EngineConfig(max_rows=1, cache_tokens=2048, num_guesses=number, reuse_prefixes=False))
    request = engine.submit(prompt, SamplingConfig(max_tokens=256))
    while not request.said and engine.step():
        pass
    start_s, steps = clock(), 0
    while engine.step():
        steps += 1
    return request.said_ids, steps + 1, clock() - start_s


def main() -> None:
    """Every example with every number of guesses in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="atom")
    parser.add_argument("--quantize", choices=("int4", "int8"))
    parser.add_argument("--count", type=int, default=12, help="examples of each task")
    parser.add_argument("--guesses", default="2,4")
    parser.add_argument("--processor-time", action="store_true")
    args = parser.parse_args()
    before_torch()
    prepare_cpu(1 if args.processor_time else None)
    import castor
    from castor.diorama.world import World

    clock = time.process_time if args.processor_time else time.perf_counter
    model, world = castor.load(args.model, device="cpu", quantize=args.quantize), World(seed=0, split="test")
    ways = [0, *map(int, args.guesses.split(","))]
    print(f"{hardware()}\n")
    print(f"| task | tokens | {' | '.join(f'{n}: tokens/step | speed' for n in ways[1:])} |")
    print(f"|---|--:|{'--:|--:|' * (len(ways) - 1)}")
    for task in TASKS:
        tokens, steps, seconds = 0, dict.fromkeys(ways, 0), dict.fromkeys(ways, 0.0)
        for index in range(args.count):
            prompt = list(world.example(task, index).prompt)
            said = write(model, prompt, 0, clock)[0]  # warms up
            tokens += len(said)
            for number in ways:
                again, num_steps, spent_s = write(model, prompt, number, clock)
                assert again == said, f"{task} {index}: {number} guesses change the answer"
                steps[number] += num_steps
                seconds[number] += spent_s
        cells = [f"{steps[0] / steps[n]:.2f} | {seconds[0] / seconds[n]:.2f}" for n in ways[1:]]
        print(f"| {task} | {tokens} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
