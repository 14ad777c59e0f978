"""The verbs for small and fast models: quantize and bench. A part of `cli.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from castor.cli_options import cache_option, whole

QUANTIZE = """\
Writes a model whose matrices have 4 or 8 bits; it loads as any other, and is never whole in memory again.

  castor quantize atom --bits 4 --out atom-4bit
  castor quantize google/gemma-4-E2B-it --bits 4 --out gemma-4bit --examples mine.jsonl
  castor chat --model atom-4bit

gptq looks at examples (your own, or the small world) to round where it matters least; nearest needs none. Without
writing anything, --quantize int4 of generate, chat, eval and serve rounds to the nearest while it loads.
"""

BENCH = """\
Tokens a second here: reading prompts and writing answers, by batch and context, and seconds to the first token, beside
what this machine's memory and matrix units can do, and beside transformers where it is installed.

  castor bench                                     the shipped model
  castor bench --model FOLDER --quantize int4 --json bench.json --png bench.png
  castor bench --shape 1.8b --quantize int4        random weights in the shape of nano-1
"""


def add_lowbit_verbs(verb: Callable[..., Any]) -> None:
    """Add them to the command line; `verb` makes one of a name, what it runs, a summary and a text."""
    _quantize_options(verb("quantize", run_quantize, "write a model with weights of 4 or 8 bits", QUANTIZE))
    _bench_options(verb("bench", run_bench, "measure how fast a model reads and writes here", BENCH))


def _quantize_options(parser: Any) -> None:
    parser.add_argument("model", metavar="MODEL", help="atom, a model folder, or a pulled model")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4, help="of matrices (default: 4)")
    parser.add_argument("--table-bits", type=int, choices=(4, 8), default=0, help="of embeddings (default: as --bits)")
    parser.add_argument("--method", choices=("gptq", "nearest"), default="gptq", help="default: gptq")
    parser.add_argument("--examples", action="append", default=[], metavar="FILE", help="examples for gptq, JSON lines")
    parser.add_argument("--count", type=whole, default=256, help="examples that gptq looks at (default: 256)")


def _bench_options(parser: Any) -> None:
    parser.add_argument("--model", default="atom", metavar="NAME", help="atom, a folder, or a pulled model")
    parser.add_argument("--shape", metavar="SIZE", help="random weights instead: 1.8b, or a size such as micro")
    parser.add_argument("--quantize", choices=("int4", "int8"), help="keep weights in so many bits")
    cache_option(parser)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="default: bfloat16 where it is fast")
    parser.add_argument("--batches", default="1,4,16", help="requests at once, comma-separated (default: 1,4,16)")
    parser.add_argument("--contexts", default="128,512", help="tokens of prompts (default: 128,512)")
    parser.add_argument("--tokens", type=whole, default=32, help="tokens written in a measurement (default: 32)")
    parser.add_argument("--rounds", type=whole, default=5, help="measurements, of which the median counts (default: 5)")
    parser.add_argument("--no-peers", action="store_true", help="leave transformers and llama.cpp out")
    parser.add_argument("--llama", metavar="FOLDER", help="folder of llama.cpp's llama-bench (default: on the PATH)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures")
    parser.add_argument("--png", metavar="FILE", help="also draw them")


def run_quantize(arguments: Any) -> None:
    """castor quantize."""
    from castor.recipes.quantise import QuantiseConfig, quantise

    config = QuantiseConfig(
        bits=arguments.bits,
        table_bits=arguments.table_bits,
        method=arguments.method,
        examples=tuple(arguments.examples),
        count=arguments.count,
    )
    print(quantise(arguments.model, arguments.out, config))


def run_bench(arguments: Any) -> None:
    """castor bench."""
    from castor.bench import BenchConfig, bench

    bench(
        BenchConfig(
            model=arguments.model,
            shape=arguments.shape,
            quantize=arguments.quantize,
            cache=arguments.cache,
            precision=arguments.precision,
            batches=_numbers("--batches", arguments.batches),
            contexts=_numbers("--contexts", arguments.contexts),
            tokens=arguments.tokens,
            rounds=arguments.rounds,
            peers=not arguments.no_peers,
            llama=arguments.llama,
        ),
        json_path=arguments.json,
        png_path=arguments.png,
    )


def _numbers(option: str, text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise ValueError(f"{option} {text}: must be whole numbers with commas between")
    return tuple(int(word) for word in words)
