"""The verb `serve`. A part of `cli.py`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from castor.cli_options import cache_option, guess_option, quantize_option, whole

if TYPE_CHECKING:
    from castor.server.models import Offer

SERVE = """\
Answers clients of the Gemini API and of the OpenAI API; only their address changes.

  castor serve                                     the shipped models at http://127.0.0.1:8000
  castor serve --model google/gemma-4-E2B-it       a pulled model
  castor serve --model atom --model vectors=DIR    several; all but the first are loaded when asked for
  castor serve --alias gemini-2.5-flash            for programs that ask for that name
  castor serve --host 0.0.0.0 --api-key-file keys  for other machines: one key a line, or sha256: and its digest

  from google import genai
  client = genai.Client(api_key="none", http_options={"base_url": "http://127.0.0.1:8000"})
  print(client.models.generate_content(model="atom", contents="Hello").text)

  from openai import OpenAI
  client = OpenAI(api_key="none", base_url="http://127.0.0.1:8000/v1")
  print(client.chat.completions.create(model="atom", messages=[{"role": "user", "content": "Hello"}]))

As many requests as --together says are answered at once; further ones wait, and beyond --queue they are answered 429.
/healthz and /readyz are for supervisors, /metrics for Prometheus. SIGTERM lets answers under way finish.
Needs: pip install 'castor[serve]'
"""


def add_serve_verb(verb: Callable[..., Any]) -> None:
    """Add it to the command line; `verb` makes one of a name, what it runs, a summary and a text."""
    parser = verb("serve", run_serve, "answer clients of the Gemini and OpenAI APIs over HTTP", SERVE)
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="atom, a model folder, or a pulled model; NAME=FOLDER gives it a name; may be repeated "
        "(default: atom, and atom-vectors)",
    )
    parser.add_argument("--adapter", metavar="FOLDER", help="an adapter trained for the first model, put onto it")
    quantize_option(parser)
    cache_option(parser)
    guess_option(parser)
    parser.add_argument("--name", help="the first model's name in addresses (default: as in --model, or its folder's)")
    parser.add_argument(
        "--alias", action="append", default=[], metavar="NAME", help="one more name of the first; may be repeated"
    )
    parser.add_argument(
        "--idle-minutes", type=float, default=0, metavar="N", help="unload models unasked for so long (default: never)"
    )
    parser.add_argument(
        "--memory-gib", type=float, default=0, metavar="N", help="weights of loaded models together (default: no limit)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    parser.add_argument(
        "--api-key", action="append", default=[], metavar="KEY", help="ask for this key; other users may see it in ps"
    )
    parser.add_argument("--api-key-file", metavar="FILE", help="ask for one of the keys in a file, a line each")
    parser.add_argument(
        "--cors", action="append", default=[], metavar="ORIGIN", help="let pages from there ask; * is all of them"
    )
    parser.add_argument("--no-safety", action="store_true", help="do not rate texts by the small classifier")
    parser.add_argument("--allow-fetch", action="store_true", help="fetch media from public http(s) addresses")
    parser.add_argument("--together", type=whole, default=16, metavar="N", help="requests answered at once (16)")
    parser.add_argument("--queue", type=whole, default=16, metavar="N", help="requests that may wait (default: 16)")
    parser.add_argument("--max-tokens", type=whole, default=1024, metavar="N", help="unless a request says (1024)")
    parser.add_argument(
        "--piece-ms",
        type=float,
        default=30,
        metavar="N",
        help="between pieces of a stream, longer under load; 0: each token alone (30)",
    )
    parser.add_argument(
        "--ray", type=whole, metavar="N", help="N replicas behind Ray Serve; pip install castor[cluster]"
    )
    parser.add_argument(
        "--files", default="", metavar="FOLDER", help="keep uploads and stores here (default: until the end)"
    )


def run_serve(arguments: Any) -> None:
    """castor serve: settings and address are checked before the model is loaded. CASTOR_API_KEY is a key, too."""
    try:
        from castor.server.run import listen, serve
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn", "prometheus_client"):
            raise
        raise ValueError(f"serving needs {error.name}: pip install 'castor[serve]'") from None
    from castor.server.config import ServerConfig, check_names
    from castor.server.keys import Keys

    (first, path), *others = [_named(model) for model in arguments.model or ["atom", "atom-vectors"]]
    config = ServerConfig(
        name=arguments.name or first,
        aliases=tuple(arguments.alias),
        cors=tuple(arguments.cors),
        rates_safety=not arguments.no_safety,
        allows_fetch=arguments.allow_fetch,
        idle_s=60 * arguments.idle_minutes,
        memory_bytes=int(arguments.memory_gib * 2**30),
        max_rows=arguments.together,
        max_waiting=arguments.queue,
        max_tokens=arguments.max_tokens,
        piece_s=arguments.piece_ms / 1000,
        files_folder=arguments.files,
    )
    given = [*arguments.api_key, *filter(None, [os.environ.get("CASTOR_API_KEY")])]
    keys = Keys.of_file(arguments.api_key_file, given) if arguments.api_key_file else Keys(given)
    if arguments.api_key_file and not len(keys):
        raise ValueError(f"{arguments.api_key_file}: there is no key in this file")
    for name, _ in others:
        check_names((name,))
    kept = {"quantize": arguments.quantize, "cache": arguments.cache, "guess": arguments.guess}
    make = partial(_offers, path, others, config.names, arguments.adapter, kept)
    if arguments.ray is not None:
        from castor.server.cluster import serve_replicas

        make()  # what is wrong with the models is told before Ray starts
        config = dataclasses.replace(config, is_replica=True)
        serve_replicas(make, config, keys, host=arguments.host, port=arguments.port, replicas=arguments.ray)
        return
    with listen(arguments.host, arguments.port) as bound:
        serve(make(), config, keys, bound)


def _offers(
    path: str, others: list[tuple[str, str]], names: tuple[str, ...], adapter: str | None, kept: dict[str, Any]
) -> list[Offer]:
    """The models in their order, of which the first is loaded at once; `kept` are options of `castor.load`."""
    from castor.server.models import Offer

    first = Offer.of_name(path, names, adapter=adapter, **kept)
    first.at_once = True
    return [first, *(Offer.of_name(folder, (name,), **kept) for name, folder in others)]


def _named(model: str) -> tuple[str, str]:
    """The name and the folder or shipped name of what --model says."""
    name, is_named, folder = model.partition("=")
    if is_named and not Path(model).is_dir():
        return name, folder
    return (Path(model).resolve().name if Path(model).is_dir() else model), model
