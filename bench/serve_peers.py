"""Other servers under the load of `serve.py --peers`: the same random weights, the same prompts, the same clients.

`transformers serve` and llama.cpp's server (`llama-server`, or the module `llama_cpp.server`) are taken where they are
installed. The weights have about the shape of `atom` and never end a turn, so that every answer has the same length.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

from clients import Seen, Target, load, prompts_of
from serve import asked, castor_served, openai_body, process

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # the checkpoint that the tests write

SHAPE: dict[str, Any] = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6}
SHAPE |= {
    "num_key_value_heads": 2,
    "head_dim": 64,
    "global_head_dim": 64,
    "num_global_key_value_heads": 2,
    "sliding_window": 256,
}
SHAPE |= {"vocab_size": 704, "num_hidden_layers": 6, "attention_k_eq_v": False, "final_logit_softcapping": 30.0}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|turn>{{ message.role }}\n{{ message.content }}<turn|>\n{% endfor %}"
    "<|turn>model\n"
)
Started = Callable[[], Any]  # a context manager that gives a Target


def write_weights(folder: Path) -> None:
    """A text model that says nothing sensible, always in whole letters, and never stops."""
    import published
    import torch
    import transformers

    published.write_tokenizer(folder)
    config = transformers.Gemma4UnifiedTextConfig(**SHAPE)
    torch.manual_seed(0)
    model = transformers.Gemma4UnifiedForCausalLM(config)
    names = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    unsaid = [at for name, at in names.items() if not name.strip("\u2581").isalpha() or not name.isascii()]
    table_VD = model.get_parameter("model.embed_tokens.weight")
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0, 0.2)
        table_VD[[*unsaid, *range(len(names), config.vocab_size)]] = 0
    model.generation_config.eos_token_id = published.stop_ids()
    model.save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def castor_peer(folder: Path, together: int) -> Generator[Target]:
    """Castor's own server, asked through OpenAI's API like the others."""
    with castor_served(str(folder), together) as (url, pid):
        yield Target(f"{url}/v1/chat/completions", partial(openai_body, model="served"), pid)


@contextlib.contextmanager
def other(command: list[str], model: str, port: int) -> Generator[Target]:
    """Another server on `port`, once it answers."""
    with (
        tempfile.TemporaryFile("w+") as told,
        process(command, stdout=subprocess.DEVNULL, stderr=told) as running,
    ):
        target = Target(f"http://127.0.0.1:{port}/v1/chat/completions", partial(openai_body, model=model), running.pid)
        body = json.dumps({**openai_body(("What is 2 + 3?", ""), model), "stream": False}).encode()
        request = urllib.request.Request(target.url, body, {"content-type": "application/json"})
        for _ in range(600):
            if running.poll() is not None:
                told.seek(0)
                last = told.read().strip().splitlines()[-1:] or [f"status {running.returncode}"]
                raise RuntimeError(last[0][:200])
            try:
                urllib.request.urlopen(request, timeout=120).read()
                break
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise RuntimeError(f"{command[0]}: {error.read()[:300]!r}") from None
            except OSError:
                pass
            time.sleep(1)
        yield target


def peers(folder: Path, together: int) -> dict[str, Started | str]:
    """Every server by name, or why it is not there."""
    found: dict[str, Started | str] = {"castor": partial(castor_peer, folder, together)}
    port, name = free_port(), str(folder)
    there = Path(sys.executable).with_name("transformers")
    serving = [str(there), "serve", name, "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    found["transformers serve"] = partial(other, serving, name, port) if there.exists() else "not installed"
    found["llama.cpp"] = "not installed"
    binary, port = shutil.which("llama-server"), free_port()
    has_module = all(importlib.util.find_spec(name) for name in ("llama_cpp", "sse_starlette", "starlette_context"))
    if binary or has_module:
        from castor.engine.published import export_gguf

        file = folder / "model.gguf"
        export_gguf(folder, str(file), kind="float32")
        places = ["--port", str(port), "--host", "127.0.0.1"]
        command = [binary, "-m", str(file), "-np", str(together), *places] if binary else []
        command = command or [sys.executable, "-m", "llama_cpp.server", "--model", str(file), *places]
        found["llama.cpp"] = partial(other, command, "model", port)
    return found


async def beside_peers(args: argparse.Namespace) -> dict[str, Any]:
    """Each server with each number of clients up to 16, one server at a time."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_weights(folder)
        for peer, start in peers(folder, args.together).items():
            if isinstance(start, str):
                found[peer] = start
                continue
            try:
                with start() as target:
                    prompts = prompts_of(asked(256, False))
                    await load(target, prompts, clients=2, seconds=args.warm_up)
                    rows: dict[str, Any] = {}
                    for clients in (1, 4, 16):
                        parts = [
                            await load(target, prompts, clients=clients, seconds=args.seconds / args.rounds)
                            for _ in range(args.rounds)
                        ]
                        rows[str(clients)] = _together(parts)
                    found[peer] = rows
            except RuntimeError as error:
                found[peer] = f"does not run here: {error}"
            print(f"  {peer}: done", file=sys.stderr)
    return found


def _together(parts: list[Seen]) -> dict[str, Any]:
    whole = Seen()
    for part in parts:
        whole.add(part)
    speeds = [part.row()["tokens_per_s"] for part in parts]
    return {
        **whole.row(),
        "tokens_per_s_median": statistics.median(speeds),
        "error_texts": sorted(set(whole.errors))[:5],
    }


def peer_report(found: dict[str, Any]) -> str:
    """A row for each server and number of clients."""
    lines = [
        "| Server | Clients | Answers/s | Tokens/s | First token p50 | p99 | Errors |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for peer, rows in found.items():
        if isinstance(rows, str):
            lines.append(f"| {peer} | {rows} | | | | | |")
            continue
        for clients, row in rows.items():
            lines.append(
                f"| {peer} | {clients} | {row['answers_per_s']:.2f} | {row['tokens_per_s_median']:,.0f} | "
                f"{1000 * row['first_p50_s']:.0f} ms | {1000 * row['first_p99_s']:.0f} ms | {row['errors']} |"
            )
    return "\n".join(lines)
