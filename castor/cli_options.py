"""The options of the verbs: what `castor VERB --help` shows. It leaves out what a verb does."""

import argparse
from typing import Any

MEDIA = ("image", "audio", "video", "document")


class _AddPart(argparse.Action):
    """Collects the parts of a prompt in the order of the command line."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        kind = (option_string or "--text").lstrip("-")
        namespace.parts = [*(namespace.parts or []), (kind, values)]


def model_option(parser: Any) -> None:
    """Which model, and which adapter on it."""
    parser.add_argument(
        "--model", default="atom", metavar="NAME", help="atom, a model folder, or a pulled model (default: atom)"
    )
    parser.add_argument("--adapter", metavar="FOLDER", help="an adapter trained for that model, put onto it")
    quantize_option(parser)


def quantize_option(parser: Any) -> None:
    """In how many bits weights are kept."""
    parser.add_argument(
        "--quantize", choices=("int4", "int8"), help="keep weights in so many bits (default: as they were saved)"
    )


def cache_option(parser: Any) -> None:
    """In how many bits keys and values are kept."""
    parser.add_argument("--cache", choices=("int8",), help="keep keys and values in 8 bits (default: as is computed)")


def guess_option(parser: Any) -> None:
    """How far an answer is guessed ahead."""
    parser.add_argument(
        "--guess", type=int, default=0, metavar="N", help="look up to N tokens ahead in what was said (default: 0)"
    )


def sampling_options(parser: Any) -> None:
    """How an answer is drawn."""
    parser.add_argument("--max-tokens", type=int, default=256, help="longest answer, in tokens (default: 256)")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0 takes the most likely token, 1 samples (default: 0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (default: 0)")


def demo_options(parser: Any) -> None:
    """castor demo."""
    parser.add_argument("files", nargs="*", metavar="FILE", help="your own files instead of the built-in samples")
    parser.add_argument("--question", help="what to ask about your files")
    parser.add_argument("--draw", action="append", default=[], metavar="WORDS", help="words to draw; may be repeated")
    parser.add_argument("--out", default="castor-demo.html", metavar="FILE", help="default: castor-demo.html")
    model_option(parser)
    cache_option(parser)
    guess_option(parser)


def prompt_options(parser: Any) -> None:
    """Words and files, in the order in which they are written."""
    parser.add_argument("--text", action=_AddPart, dest="parts", metavar="PROMPT", help="words; --text may be left out")
    for kind in MEDIA:
        parser.add_argument(
            f"--{kind}",
            action=_AddPart,
            dest="parts",
            metavar="FILE",
            help=f"{_article(kind)} to show; may be repeated",
        )


def generate_options(parser: Any) -> None:
    """castor generate."""
    prompt_options(parser)
    parser.add_argument("--out", metavar="FILE", help="where a drawn picture goes (default: drawing.png, a free name)")
    model_option(parser)
    cache_option(parser)
    guess_option(parser)
    sampling_options(parser)


def embed_options(parser: Any) -> None:
    """castor embed."""
    prompt_options(parser)
    parser.add_argument("--together", action="store_true", help="one vector of all of it (default: one of each)")
    parser.add_argument("--task", metavar="NAME", help="what for, by the checkpoint's names: Retrieval-query, ...")
    parser.add_argument("--dimensions", type=whole, metavar="N", help="keep the first N numbers (default: all)")
    parser.add_argument("--out", metavar="FILE.npy", help="write a float32 array instead of JSON lines")
    model_option(parser)


def eval_options(parser: Any) -> None:
    """castor eval."""
    parser.add_argument(
        "--limit", type=whole, help="examples for each ability (default: 100), or pairs of each pool (default: 1000)"
    )
    parser.add_argument("--embedding", action="store_true", help="score the vectors instead: how well they find")
    parser.add_argument("--data", metavar="FOLDER", help="also score on real data in this folder")
    parser.add_argument("--seed", type=int, default=0, help="seed of the intervals and of chance (default: 0)")
    parser.add_argument("--json", metavar="FILE", help="also write the whole report as JSON")
    parser.add_argument("--markdown", metavar="FILE", help="also write it as Markdown tables")
    parser.add_argument("--slices", action="store_true", help="show each language and each unseen slice, too")
    parser.add_argument("--records", metavar="FILE", help="also write every answer, as JSON lines")
    model_option(parser)
    cache_option(parser)
    parser.set_defaults(guess=0)  # answers are written many at once, where guesses gain nothing


def whole(text: str) -> int:
    """A count of one or more, as argparse types are: a ValueError becomes its message."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _article(kind: str) -> str:
    return {"image": "a picture", "audio": "a recording", "video": "a video clip", "document": "a PDF"}[kind]


def merge_options(parser: Any) -> None:
    """castor merge."""
    parser.add_argument("model", metavar="MODEL", help="atom, or a model folder")
    parser.add_argument("adapter", metavar="ADAPTER", help="folder of an adapter that was trained for it")
    parser.add_argument("out", metavar="OUT", help="folder of the model to write")
    parser.add_argument(
        "--precision", choices=("bfloat16", "float32"), default="bfloat16", help="of the weights (default: bfloat16)"
    )
