"""Many requests at once beside `transformers`' continuous batching and llama.cpp's server: tokens of answers a second.

    python bench/together.py --llama FOLDER                 the shape of atom, float32 on all sides
    python bench/together.py --shape 1.8b --llama FOLDER    bfloat16, and 4 bits beside Q4_0

All requests come at once: prompts of 16 to 256 random ids, answers of 8 to 64, the same on all sides, greedy, no
prefix known. Each program runs alone, and is warm when it is measured. `transformers` allots a cache as large as ours
("as it comes", with `--as-it-comes`, it takes most of the memory, and looks at all of it at every step). llama.cpp's
server takes ids and gives ids over HTTP, which its time includes. Sides in one type have the same random weights,
and answers that are the same as those of the first are counted; those in four bits say other things. With
`--processor-time`, seconds of the processor with one thread (of the server's process, too), for a machine that is busy.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from serve_peers import free_port  # beside this file

from castor.runtime import before_torch, hardware, prepare_cpu

Asked = list[tuple[list[int], int]]  # ids of a prompt, and the length of its answer
Answers = list[list[int]]
PAGE = 32  # tokens in a block of theirs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """One program: begun by `start`, which gives a way to answer and a clock of what it spends."""

    name: str
    start: Callable[[], Any]


def mixed(model: Any, count: int) -> list[tuple[Any, int]]:
    """Prompts as sequences, and lengths of answers."""
    from castor.bench.measure import random_prompt

    rng = random.Random(0)
    return [(random_prompt(model, rng.randint(16, 256), seed), rng.randint(8, 64)) for seed in range(count)]


@contextlib.contextmanager
def engine(model: Any, asked: list[tuple[Any, int]]) -> Generator[tuple[Callable[[], Answers], Callable[[], float]]]:
    """Castor's engine, with room for all of them."""
    from castor.bench.measure import Unending
    from castor.engine.engine import EngineConfig
    from castor.engine.sample import SamplingConfig

    room = sum(len(sequence) + most + 2 * EngineConfig.block_tokens for sequence, most in asked)

    def answer() -> Answers:
        made = Unending(model, EngineConfig(max_rows=len(asked), cache_tokens=room, reuse_prefixes=False))
        requests = [
            made.submit_tokens(sequence, SamplingConfig(max_tokens=most, may_draw=False)) for sequence, most in asked
        ]
        while made.step():
            pass
        return [request.said_ids for request in requests]

    yield answer, time.process_time


@contextlib.contextmanager
def continuous(
    peer: Any, asked: Asked, *, as_it_comes: bool
) -> Generator[tuple[Callable[[], Answers], Callable[[], float]]]:
    """Their continuous batching, with a cache of the size that is needed or of the size that they choose."""
    import transformers
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    greedy = transformers.GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
    blocks = sum(-(-(len(ids) + most) // PAGE) + 1 for ids, most in asked)
    ours = ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=blocks,
        max_batch_tokens=512,
        max_requests_per_batch=len(asked),
        allow_block_sharing=False,
    )
    config = {} if as_it_comes else {"continuous_batching_config": ours}
    with peer.continuous_batching_context_manager(generation_config=greedy, warmup=False, **config) as manager:

        def answer() -> Answers:
            names = [manager.add_request(ids, max_new_tokens=most) for ids, most in asked]
            said: dict[str, list[int]] = {}
            while len(said) < len(asked):
                result = manager.get_result(timeout=600)
                if result is None or result.error is not None:
                    raise RuntimeError("no answer" if result is None else result.error)
                if result.is_finished():
                    said[result.request_id] = result.generated_tokens
            return [said[name] for name in names]

        yield answer, time.process_time


@contextlib.contextmanager
def static(peer: Any, asked: Asked) -> Generator[tuple[Callable[[], Answers], Callable[[], float]]]:
    """Their `generate` on one padded batch, as long as its longest answer takes."""
    import torch

    width, longest = max(len(ids) for ids, _ in asked), max(most for _, most in asked)
    ids_BT = torch.tensor([[0] * (width - len(ids)) + ids for ids, _ in asked])
    mask_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids, _ in asked])

    @torch.inference_mode()
    def answer() -> Answers:
        said_BT = peer.generate(
            ids_BT, attention_mask=mask_BT, max_new_tokens=longest, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        return [ids[:most] for ids, (_, most) in zip(said_BT[:, width:].tolist(), asked, strict=True)]

    yield answer, time.process_time


@contextlib.contextmanager
def llama_server(
    folder: Path, file: Path, asked: Asked, threads: int
) -> Generator[tuple[Callable[[], Answers], Callable[[], float]]]:
    """llama.cpp's server with a slot for each request; its clock is what its process has spent."""
    port, longest = free_port(), max(len(ids) + most for ids, most in asked)
    command = [str(folder / "llama-server"), "-m", str(file), "--host", "127.0.0.1", "--port", str(port)]
    command += ["-t", str(threads), "-tb", str(threads), "-np", str(len(asked)), "-c", str(len(asked) * (longest + 64))]
    process = subprocess.Popen([*command, "--cache-ram", "0"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def ask(one: tuple[list[int], int]) -> list[int]:
        wanted = {"prompt": one[0], "n_predict": one[1], "temperature": 0, "cache_prompt": False}
        body = json.dumps({**wanted, "ignore_eos": True, "return_tokens": True}).encode()
        request = urllib.request.Request(f"{url}/completion", body, {"content-type": "application/json"})
        return json.loads(urllib.request.urlopen(request, timeout=600).read())["tokens"]

    def spent_s() -> float:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    try:
        _wait(process, f"{url}/health")
        with ThreadPoolExecutor(len(asked)) as clients:
            yield lambda: list(clients.map(ask, asked)), spent_s
    finally:
        process.terminate()
        process.wait(60)


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    for _ in range(6000):
        assert process.poll() is None, f"llama-server ended with {process.returncode}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    raise TimeoutError("llama-server does not get ready")


def write_llama(model: Any, folder: Path, programs: Path, kind: str) -> Path:
    """The model as a GGUF file; matrices float32, bfloat16, or Q4_0 by llama.cpp's own program."""
    from castor.bench.peers import pieces
    from castor.models.gguf import write_gguf

    whole = folder / "whole.gguf"
    write_gguf(whole, model.decoder, pieces(), kind="float32" if kind == "float32" else "bfloat16")
    if kind != "q4_0":
        return whole
    file = folder / "q4_0.gguf"
    quantise = [str(programs / "llama-quantize"), str(whole), str(file), "Q4_0", "2"]
    subprocess.run(quantise, check=True, capture_output=True)
    whole.unlink()
    return file


def random_weights(shape: str, precision: str) -> Any:
    """A text model of that shape which never says what is not a word, so that no side has anything to keep out."""
    import torch

    from castor.bench.subject import subject

    model = subject("", shape, None, precision)
    with torch.no_grad():  # a logit of zero is never the highest
        model.decoder.output_weight_VD[:4] = 0
        model.decoder.output_weight_VD[model.renderer.space.num_text :] = 0
    return model


def sides(args: argparse.Namespace, folder: Path, threads: int) -> list[Side]:
    """All programs that are here, in the order of the table."""
    import transformers

    from castor.bench.subject import subject
    from castor.models.load import save_model

    is_small = args.shape == "atom"
    kind = "float32" if is_small else "bfloat16"
    model = random_weights(args.shape, kind)
    save_model(model.decoder, folder / "model", dtype=model.decoder.dtype)
    transformers.logging.disable_progress_bar()
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=model.decoder.dtype).eval()
    asked = mixed(model, args.requests)
    plain: Asked = [(sequence.ids_T.tolist(), most) for sequence, most in asked]
    found = [
        Side(name=f"Castor, {kind}", start=partial(engine, model, asked)),
        Side(name=f"transformers, {kind}", start=partial(continuous, peer, plain, as_it_comes=False)),
        Side(name=f"transformers, {kind}, one padded batch", start=partial(static, peer, plain)),
    ]
    if args.as_it_comes:
        start = partial(continuous, peer, plain, as_it_comes=True)
        found.append(Side(name=f"transformers, {kind}, as it comes", start=start))
    if not is_small:
        packed = subject("", args.shape, "int4", kind)
        found.append(Side(name="Castor, int4", start=partial(engine, packed, asked)))
    if args.llama:
        programs, form = Path(args.llama), "float32" if is_small else "q4_0"
        file = write_llama(model, folder, programs, form)
        found.append(Side(name=f"llama.cpp, {form}", start=partial(llama_server, programs, file, plain, threads)))
    return found


def measured(side: Side, *, is_processor_time: bool) -> tuple[float, Answers]:
    """Tokens a second, and what was said; RuntimeError where the program cannot do it."""
    with side.start() as (answer, spent_s):
        clock = spent_s if is_processor_time else time.perf_counter
        answer()  # warms up
        start_s = clock()
        said = answer()
        return sum(map(len, said)) / (clock() - start_s), said


def main() -> None:
    """Measure every side in each round, alone, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="atom", help="atom, or 1.8b")
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--llama", metavar="FOLDER", help="folder of llama-server and llama-quantize")
    parser.add_argument("--as-it-comes", action="store_true", help="their continuous batching by its defaults, too")
    parser.add_argument("--processor-time", action="store_true")
    args = parser.parse_args()
    before_torch()
    prepare_cpu(1 if args.processor_time else None)
    import torch

    rates: dict[str, list[float]] = {}
    said: dict[str, Answers] = {}
    with tempfile.TemporaryDirectory() as folder:
        every = sides(args, Path(folder), torch.get_num_threads())
        for _, side in itertools.product(range(args.rounds), every):
            try:
                rate, said[side.name] = measured(side, is_processor_time=args.processor_time)
            except RuntimeError as error:
                print(f"{side.name} does not run here: {error}", file=sys.stderr, flush=True)
                continue
            rates.setdefault(side.name, []).append(rate)
            print(f"{side.name}: {rate:,.1f}", file=sys.stderr, flush=True)
    first = every[0].name
    unit = "processor second, one thread" if args.processor_time else "second"
    print(f"{hardware()}\n\n{args.shape}, {args.requests} requests at once, tokens of answers a {unit}\n")
    print("| Side | tokens/s | answers as the first |\n|---|--:|--:|")
    for name, values in rates.items():
        same = sum(a == b for a, b in zip(said[name], said[first], strict=True))
        print(f"| {name} | {statistics.median(values):,.1f} | {same} of {args.requests} |")


if __name__ == "__main__":
    main()
