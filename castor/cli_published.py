"""The verbs for published models: pull, export and embed. A part of `cli.py`."""

import json
from collections.abc import Callable
from typing import Any

from castor.cli_options import embed_options

PULL = """\
Fetches a published model from the Hugging Face Hub: weights as safetensors, JSON, tokenizer; never pickle or code.

  castor pull google/gemma-4-E2B-it                into the Hub's cache, where other programs find it too
  castor pull google/gemma-4-E2B-it --to gemma     into a folder
  castor chat --model google/gemma-4-E2B-it

A transfer that broke off goes on where it stopped, and every file is checked against its hash. HF_ENDPOINT names a
mirror, HF_TOKEN is for gated models, HF_HOME moves the cache, HF_HUB_OFFLINE=1 looks into the cache only.
"""


EMBED = """\
Vectors of texts and files, one for each in the order you write them, as JSON lines; all of them are in one space.

  castor embed --model google/embeddinggemma-2 "a red circle" --image photo.png --audio words.wav
  castor embed --model FOLDER --task Retrieval-query "what is red?" --dimensions 256
  castor embed --model FOLDER --together --image photo.png "the same in winter" --out vector.npy
"""
_EMBED_USAGE = "castor embed [TEXT | --image FILE | --audio FILE | --video FILE | --document FILE]... [options]"


def add_published_verbs(verb: Callable[..., Any]) -> None:
    """Add them to the command line; `verb` makes one of a name, what it runs, a summary and a text."""
    _pull_options(verb("pull", run_pull, "fetch a published model from the Hugging Face Hub", PULL))
    _export_options(verb("export", run_export, "write a published model's text decoder as GGUF, for llama.cpp"))
    embed_options(
        verb("embed", run_embed, "vectors of texts and files, to compare and to search by", EMBED, usage=_EMBED_USAGE)
    )


def _pull_options(parser: Any) -> None:
    parser.add_argument("name", metavar="ORG/NAME", help="such as google/gemma-4-E2B-it")
    parser.add_argument("--to", metavar="FOLDER", help="a folder of its own (default: the Hub's cache)")
    parser.add_argument("--revision", default="main", help="branch, tag or commit (default: main)")


def _export_options(parser: Any) -> None:
    parser.add_argument("model", metavar="NAME", help="a folder in Hugging Face's layout, or a pulled model")
    parser.add_argument("--gguf", required=True, metavar="FILE", help="where to write")
    parser.add_argument("--type", default="bfloat16", help="of matrices: float32, float16, bfloat16 (default)")


def run_pull(arguments: Any) -> None:
    """castor pull: the folder on standard output, progress on standard error."""
    from castor.hub.pull import pull

    print(pull(arguments.name, to=arguments.to, revision=arguments.revision))


def run_export(arguments: Any) -> None:
    """castor export: pictures and sound stay behind, which GGUF keeps in a file of another kind."""
    from castor.engine.model import find_folder
    from castor.engine.published import export_gguf

    print(export_gguf(find_folder(arguments.model), arguments.gguf, kind=arguments.type))


def run_embed(arguments: Any) -> None:
    """castor embed: files and the name of `--out` are checked before the model is loaded."""
    if not arguments.parts:
        raise ValueError('nothing to embed; try: castor embed --model FOLDER "a red circle" --image photo.png')
    if arguments.out and not arguments.out.endswith(".npy"):
        raise ValueError(f"--out {arguments.out}: vectors are written as .npy")
    import numpy as np

    import castor
    from castor.demo.say import part_of

    parts = [part_of(kind, value) for kind, value in arguments.parts]
    names = [value for _, value in arguments.parts]
    model = castor.load(arguments.model, adapter=arguments.adapter, quantize=arguments.quantize)
    prompts = [parts] if arguments.together else [[part] for part in parts]
    vectors_NE = model.embed(*prompts, dimensions=arguments.dimensions, task=arguments.task).numpy()
    if arguments.out:
        np.save(arguments.out, vectors_NE)
        print(arguments.out)
        return
    for given, vector_E in zip([names] if arguments.together else names, vectors_NE, strict=True):
        print(
            json.dumps({"prompt": given, "vector": [float(f"{value:.7g}") for value in vector_E]}, ensure_ascii=False)
        )
