"""The server under load: time to the first token, tokens a second, memory, and what it costs beside the bare engine.

    python bench/serve.py                                  a few minutes: 1, 4, 16 and 64 clients beside the bare engine
    python bench/serve.py --clients 64 --seconds 600       the long run; memory is sampled every second
    python bench/serve.py --endless 256                    answers of 256 tokens, by random weights
    python bench/serve.py --peers                          beside `transformers serve` and llama.cpp's server

`castor serve` runs as a process of its own and answers over HTTP; every client streams an answer, then asks again.
In each round the bare engine, in another process, answers the same prompts with as many requests under way: that is the
server's work without HTTP. Wall-clock speeds suffer from anything else that runs on the machine; tokens a second of the
answering process's own processor time do not, and the overhead is given for both. A table is printed, and everything
measured goes to a JSON file.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from clients import Seen, Target, load, prompts_of, resident_bytes  # beside this file

SAMPLES = Path(__file__).resolve().parent.parent / "castor" / "samples"
ANSWER_TOKENS = int(os.environ.get("CASTOR_BENCH_TOKENS", "64"))  # set for the children by --endless
Prompt = tuple[str, str]  # a question, and the file it is about or ""


def asked(count: int, with_pictures: bool) -> list[Prompt]:
    """Sums and translations; every fourth with a picture. The same ones every time."""
    rng = random.Random(0)
    words = ("a small red circle", "a large blue square", "two green stars", "a yellow heart", "three black crosses")
    made: list[Prompt] = []
    for at in range(count):
        if at % 4 == 3 and with_pictures:
            made.append((rng.choice(("How many red shapes are there?", "What shape is at the top left?")), "scene.png"))
        elif at % 2:
            made.append((f"Translate into {rng.choice(('French', 'German', 'Spanish'))}: {rng.choice(words)}", ""))
        else:
            made.append((f"What is {rng.randint(11, 98)} + {rng.randint(11, 98)}?", ""))
    return made


def gemini_body(prompt: Prompt) -> dict[str, Any]:
    """A request of the Gemini API."""
    text, name = prompt
    media = [{"inlineData": {"mimeType": "image/png", "data": _encoded(name)}}] if name else []
    config = {"maxOutputTokens": ANSWER_TOKENS, "responseModalities": ["TEXT"]}
    return {"contents": [{"role": "user", "parts": [*media, {"text": text}]}], "generationConfig": config}


def openai_body(prompt: Prompt, model: str) -> dict[str, Any]:
    """A request of OpenAI's API, without pictures: peers get the same text checkpoint."""
    messages = [{"role": "user", "content": prompt[0]}]
    options = {"max_tokens": ANSWER_TOKENS, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    return {"model": model, "messages": messages, **options}


def _encoded(name: str, known: dict[str, str] = {}) -> str:  # noqa: B006  # read and encoded once
    if name not in known:
        known[name] = base64.b64encode((SAMPLES / name).read_bytes()).decode()
    return known[name]


@contextlib.contextmanager
def process(command: list[str], **options: Any) -> Generator[subprocess.Popen[str]]:
    """A process for as long as the block runs."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SAMPLES.parent.parent), *sys.path])}
    with subprocess.Popen(command, text=True, env=environment, **options) as running:
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(30)
            except subprocess.TimeoutExpired:
                running.kill()


@contextlib.contextmanager
def castor_served(model: str, together: int) -> Generator[tuple[str, int]]:
    """Address and process of `castor serve`."""
    places = ["--together", str(together), "--queue", "64", "--name", "served"]
    command = [sys.executable, "-m", "castor.cli", "serve", "--model", model, "--port", "0", *places]
    with process(command, stderr=subprocess.PIPE) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if found := re.search(r"serves .* at (http://\S+);", line):
                break
        else:
            raise RuntimeError("castor serve ended at its start")
        threading.Thread(target=lambda: all(running.stderr or ()), daemon=True).start()  # its log is read and dropped
        yield found.group(1), running.pid


class Bare:
    """The engine alone, in a process that is told what to do a line at a time."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self.running = running

    @classmethod
    @contextlib.contextmanager
    def started(cls, model: str, together: int) -> Generator[Bare]:
        """The process, once its model is loaded."""
        command = [sys.executable, __file__, "--bare", model, "--together", str(together)]
        with process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None and running.stdout.readline().strip() == "ready"
            yield cls(running)

    def load(self, *, clients: int, seconds: float, with_pictures: bool) -> Seen:
        """This many requests under way for this long."""
        assert self.running.stdin is not None and self.running.stdout is not None
        self.running.stdin.write(json.dumps([clients, seconds, with_pictures]) + "\n")
        self.running.stdin.flush()
        return Seen(**json.loads(self.running.stdout.readline()))


def bare_child(model_name: str, together: int) -> None:
    """Answer what standard input asks for: clients and seconds a line; what was seen, a line."""
    import castor
    from castor.content import Image, Message
    from castor.engine.engine import Engine, EngineConfig
    from castor.engine.sample import SamplingConfig

    model = castor.load(model_name)
    engine = Engine(model, EngineConfig(max_rows=together, token_budget=512 + together))  # as the server has it
    sampling = SamplingConfig(max_tokens=ANSWER_TOKENS, may_draw=False)
    print("ready", flush=True)
    for line in sys.stdin:
        clients, seconds, with_pictures = json.loads(line)
        prompts, seen, under_way = prompts_of(asked(256, with_pictures)), Seen(), []
        started, cpu = time.monotonic(), time.process_time()
        while under_way or time.monotonic() < started + seconds:
            while len(under_way) < clients and time.monotonic() < started + seconds:
                text, name = next(prompts)
                media = [Image((SAMPLES / name).read_bytes())] if name else []
                under_way.append(engine.submit([Message.user(*media, text)], sampling))
            engine.step()
            for request in [request for request in under_way if request.reason is not None]:
                under_way.remove(request)
                result = request.result()
                seen.first_s.append(result.first_s or result.total_s)
                seen.tokens += len(result.said)
                seen.answers += 1
        seen.wall_s, seen.cpu_s = time.monotonic() - started, time.process_time() - cpu
        print(json.dumps(vars(seen)), flush=True)


class Memory(threading.Thread):
    """The resident memory of a process, once a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.samples, self.is_over = pid, [resident_bytes(pid)], threading.Event()

    def run(self) -> None:
        """Sample until it is over."""
        while not self.is_over.wait(1.0):
            with contextlib.suppress(OSError):
                self.samples.append(resident_bytes(self.pid))

    def growth(self) -> float:
        """The last fifth beside the second one, as a share: the first holds what grows once."""
        fifth = max(1, len(self.samples) // 5)
        before, after = self.samples[fifth : 2 * fifth] or self.samples[:1], self.samples[-fifth:]
        return statistics.fmean(after) / statistics.fmean(before) - 1


@contextlib.contextmanager
def weights(args: argparse.Namespace) -> Generator[tuple[str, bool]]:
    """What is served, and whether it reads pictures: the model, or random text weights whose answers never end."""
    global ANSWER_TOKENS
    if not args.endless:
        yield args.model, True
        return
    from serve_peers import write_weights

    ANSWER_TOKENS = args.endless
    os.environ["CASTOR_BENCH_TOKENS"] = str(args.endless)
    with tempfile.TemporaryDirectory() as folder:
        write_weights(Path(folder))
        yield folder, False


def beside_the_engine(args: argparse.Namespace) -> dict[str, Any]:
    """Every number of clients, server and bare engine in turn."""
    found: dict[str, Any] = {}
    with (
        weights(args) as (model, with_pictures),
        castor_served(model, args.together) as (url, pid),
        Bare.started(model, args.together) as bare,
    ):
        target = Target(f"{url}/v1beta/models/served:streamGenerateContent?alt=sse", gemini_body, pid)
        prompts = prompts_of(asked(256, with_pictures))
        asyncio.run(load(target, prompts, clients=4, seconds=args.warm_up))
        bare.load(clients=4, seconds=args.warm_up, with_pictures=with_pictures)
        for clients in args.clients:
            memory = Memory(pid)
            memory.start()
            server, engine = Seen(), Seen()
            for _ in range(args.rounds):
                server.add(asyncio.run(load(target, prompts, clients=clients, seconds=args.seconds / args.rounds)))
                bare_s = min(args.seconds / args.rounds, 60)
                engine.add(bare.load(clients=clients, seconds=bare_s, with_pictures=with_pictures))
            memory.is_over.set()
            row = {"server": server.row(), "engine": engine.row(), "error_texts": sorted(set(server.errors))[:5]}
            row["memory_mib"] = [round(size / 2**20, 1) for size in memory.samples]
            row["memory_growth"] = memory.growth()
            found[str(clients)] = row
            print(f"  {clients} clients: {server.answers} answers, {len(server.errors)} errors", file=sys.stderr)
    return found


def overhead(row: dict[str, Any], what: str) -> float:
    """The share of the bare engine's speed that the server does not reach."""
    return 1 - row["server"][what] / row["engine"][what]


def report(found: dict[str, Any]) -> str:
    """A table, and the targets with what was reached."""
    heads = ("Clients", "Answers", "Errors", "First token p50", "p99", "Tokens/s", "Engine alone", "Overhead")
    lines = [f"| {' | '.join(heads)} | of processor time | Memory |", "|--:" * 10 + "|"]
    for clients, row in found.items():
        server, engine = row["server"], row["engine"]
        lines.append(
            f"| {clients} | {server['answers']:,} | {server['errors']} | {1000 * server['first_p50_s']:.0f} ms | "
            f"{1000 * server['first_p99_s']:.0f} ms | {server['tokens_per_s']:,.0f} | {engine['tokens_per_s']:,.0f} | "
            f"{overhead(row, 'tokens_per_s'):.1%} | {overhead(row, 'tokens_per_cpu_s'):.1%} | "
            f"{row['memory_mib'][-1]:.0f} MiB, {row['memory_growth']:+.1%} |"
        )
    if {"1", "16"} <= set(found):
        ratio = found["16"]["server"]["tokens_per_s"] / found["1"]["server"]["tokens_per_s"]
        lines += ["", f"16 clients beside one: {ratio:.2f} times the tokens a second"]
    if {"1", "64"} <= set(found):
        ratio = found["64"]["server"]["first_p99_s"] / found["1"]["server"]["first_p50_s"]
        lines.append(f"First token, p99 of 64 clients beside the median of one: {ratio:.1f} times")
    return "\n".join(lines)


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="atom")
    parser.add_argument("--clients", default="1,4,16,64", type=lambda text: [int(one) for one in text.split(",")])
    parser.add_argument("--seconds", type=float, default=30.0, help="for each number of clients (30)")
    parser.add_argument("--rounds", type=int, default=1, help="into which these are cut, the engine between them")
    parser.add_argument("--warm-up", type=float, default=5.0, help="seconds before anything counts (5)")
    parser.add_argument("--endless", type=int, default=0, metavar="N", help="answers of N tokens, by random weights")
    parser.add_argument("--together", type=int, default=64, help="requests answered at once (64)")
    parser.add_argument("--peers", action="store_true", help="other servers instead, with the same random weights")
    parser.add_argument("--out", default="serve.json", help="where everything measured goes (serve.json)")
    parser.add_argument("--bare", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        bare_child(args.bare, args.together)
        return
    if args.peers:
        from serve_peers import beside_peers, peer_report

        found, told = (rows := asyncio.run(beside_peers(args))), peer_report(rows)
    else:
        found, told = (rows := beside_the_engine(args)), report(rows)
    from castor.runtime import hardware

    Path(args.out).write_text(json.dumps({"hardware": hardware(), "arguments": vars(args), "found": found}, indent=1))
    print(f"{hardware()}\n\n{told}\n\nEverything measured: {args.out}")


if __name__ == "__main__":
    main()
