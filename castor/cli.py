"""The command line: a table of verbs, each a few lines.  Heavy imports wait until a verb runs."""

import argparse
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from castor.cli_lowbit import add_lowbit_verbs
from castor.cli_options import (
    cache_option,
    demo_options,
    eval_options,
    generate_options,
    guess_option,
    merge_options,
    model_option,
    sampling_options,
    whole,
)
from castor.cli_published import add_published_verbs
from castor.cli_search import SWITCHES, add_search_verbs
from castor.cli_serve import add_serve_verb
from castor.runtime import before_torch, use_faster_malloc

if TYPE_CHECKING:
    from castor.engine.model import Model

OVERVIEW = """\
Castor reads text, pictures, sound, video and pages, and writes text and pictures.

  castor demo                                      see all of it in one page, in a minute or two
  castor generate --image photo.png "How many red shapes are there?"
  castor generate --audio words.wav "What is said here?"
  castor generate "Draw a large red circle left of a small blue square." --out drawing.png
  castor chat                                      talk to it; /help lists what you can show it
  castor speedrun                                  train a small model from nothing on this machine
  castor eval --limit 50                           score every ability, with chance beside it
  castor eval --embedding --model NAME             score vectors: how well each medium finds the others
  castor pull google/gemma-4-E2B-it                fetch a published model, then: castor chat --model NAME
  castor embed --model NAME "a red dog" --image a.png   vectors of texts and files, by a model that makes them
  castor serve                                     answer clients of the Gemini and OpenAI APIs
  castor quantize MODEL --bits 4 --out FOLDER      a smaller, faster model of the same; or --quantize int4 anywhere
  castor bench                                     how fast a model is here, beside what this machine can do
  castor index ~/things                            make your own files findable, then: castor search "a red boat"
"""

GENERATE = """\
Answers one prompt.  The parts of the prompt are given to the model in the order you write them.

  castor generate --image a.png "What is left of the blue square?"
  castor generate --image a.png --audio question.wav            the question may be spoken
  castor generate --document report.pdf "What does the title say?" --max-tokens 64
  castor generate "Draw a small green triangle." --out triangle.png
"""

_SETTINGS = """\
Settings are key=value: minutes (of training), out (the run's folder), data (a folder of real data), examples (a file of
your own, one JSON object a line), seed, size (atom, micro, ...), device, num_workers, optim.learning_rate, and every
other field of castor.recipes.pipeline.RunConfig; a wrong key names the nearest one. Those of finetune are the fields of
castor.recipes.finetune.FinetuneConfig: model, examples, out, method, epochs, batch_size, learning_rate, rank, ...

Ctrl-C saves; the same command goes on, and ends with the weights of a run that was never stopped. The run's folder
holds the tokenizer, the codec, metrics.jsonl, curves.png and the model to load: castor chat --model FOLDER/model"""

TRAIN = f"""\
Trains tokenizer, image codec and model, stage by stage.

  castor train                                     the recipes there are
  castor train atom minutes=30 out=runs/mine examples=mine.jsonl data=FOLDER
  castor train atom vision=tower audio=conformer   other ways in for pictures and sounds than the size's own
  castor train finetune --model atom examples=mine.jsonl out=runs/mine method=full|lora|qlora rank=16
  castor train embed model=FOLDER out=runs/embed minutes=15      a head that makes vectors of any medium

{_SETTINGS}
"""

SPEEDRUN = f"""\
From nothing to a trained and scored model: tokenizer, image codec, pre-training, tuning, report.

  castor speedrun minutes=60 out=runs/hour         15 minutes unless told otherwise

{_SETTINGS}
"""

FLAGS = ("-h", "--help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb; returns the exit status: 0 done, 2 a mistake in the request, 130 interrupted."""
    before_torch()
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a letter shows "?" and loses no answer
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    arguments = build_parser().parse_args(in_order(list(sys.argv[1:] if argv is None else argv)))
    if "run" not in arguments:
        build_parser().print_help()
        return 0
    if argv is None and arguments.run in (run_train, run_speedrun):
        use_faster_malloc()
    try:
        return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        print("\ncastor: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError) as error:
        if os.environ.get("CASTOR_TRACEBACK"):
            raise
        told = str(error).splitlines() if hasattr(error, "problems") else [str(error)]  # many, or one in one line
        line = "castor: " + "\n".join(" ".join(line.split()) for line in told)
        print(f"\033[31m{line}\033[0m" if sys.stderr.isatty() else line, file=sys.stderr)
        return 2


def in_order(argv: list[str]) -> list[str]:
    """Bare words of what takes a prompt as --text options: words and files keep the order they were written in.

    ["generate", "hello", "--image", "a.png"] -> ["generate", "--text=hello", "--image", "a.png"]
    ["train", "finetune", "--model", "a", "rank=4"] -> ["train", "--model", "a", "finetune", "rank=4"]
    """
    if argv[:1] == ["train"] and "--model" in argv[1:-1]:  # argparse takes the settings as one run of words
        at = argv.index("--model")
        return ["train", *argv[at : at + 2], *argv[1:at], *argv[at + 2 :]]
    if argv[:1] not in (["generate"], ["embed"], ["search"], ["ask"]):
        return argv
    kept, words = argv[:1], iter(argv[1:])
    for word in words:
        if word == "--":
            kept += [f"--text={rest}" for rest in words]
        elif word in (*FLAGS, *SWITCHES, "--together") or (word.startswith("--") and "=" in word):
            kept.append(word)
        elif word.startswith("--"):
            kept += [word, *[value for value in [next(words, None)] if value is not None]]
        else:
            kept.append(f"--text={word}")
    return kept


def build_parser() -> argparse.ArgumentParser:
    """The verbs and their options."""
    from castor import __version__

    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="castor", description=OVERVIEW, formatter_class=shape)
    parser.add_argument("--version", action="version", version=f"castor {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")

    def verb(name: str, run: Callable[[Any], Any], summary: str, text: str = "", **more: Any) -> Any:
        made = verbs.add_parser(name, help=summary, description=text or summary, formatter_class=shape, **more)
        made.set_defaults(run=run)
        return made

    demo_options(verb("demo", run_demo, "look, listen, read and draw; writes one page to open in a browser"))
    generate_options(verb("generate", run_generate, "answer one prompt", GENERATE, usage=_GENERATE_USAGE))
    chat = verb("chat", run_chat, "talk with the model; /help inside lists what you can show it")
    model_option(chat)
    cache_option(chat)
    guess_option(chat)
    sampling_options(chat)
    train = verb("train", run_train, "run a training recipe; without a name, list them", TRAIN)
    train.add_argument("recipe", nargs="?", metavar="RECIPE", help="name of a recipe")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change, such as minutes=5")
    train.add_argument("--model", metavar="NAME", help="what finetune and embed start from, as model=NAME")
    speedrun = verb("speedrun", run_speedrun, "make a small model from nothing, and score it", SPEEDRUN)
    speedrun.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change, such as minutes=5")
    merge_options(verb("merge", run_merge, "put an adapter into a model's weights for good, as a folder of its own"))
    eval_options(verb("eval", run_eval, "score every ability on unseen examples, with intervals and chance"))
    add_published_verbs(verb)
    add_serve_verb(verb)
    add_lowbit_verbs(verb)
    add_search_verbs(verb)
    _data_options(verb("data", lambda _: data.print_help(), "make, look at and count training data"))
    data = verbs.choices["data"]
    return parser


_GENERATE_USAGE = "castor generate [PROMPT | --image FILE | --audio FILE | --video FILE | --document FILE]... [options]"


def _data_options(parser: Any) -> None:
    steps = parser.add_subparsers(title="steps", metavar="STEP")
    make = steps.add_parser("make", help="write examples of the small world as JSON lines")
    make.add_argument("out", metavar="FILE.jsonl")
    make.add_argument("--count", type=whole, default=100, help="examples for each task (default: 100)")
    make.add_argument("--tasks", help="comma-separated; default: all")
    make.add_argument("--languages", help="comma-separated, such as en,zh; default: all")
    make.add_argument("--split", choices=("train", "val", "test"), default="train", help="default: train")
    make.add_argument("--seed", type=int, default=0)
    make.set_defaults(run=run_data_make)
    look = steps.add_parser("look", help="write one page that shows examples of every task")
    look.add_argument("out", nargs="?", default="castor-data.html", metavar="FILE.html")
    look.add_argument("--count", type=whole, default=3, help="examples for each task (default: 3)")
    look.add_argument("--seed", type=int, default=0)
    look.set_defaults(run=run_data_look)
    count = steps.add_parser("count", help="count the examples, turns and media of a JSON-lines file")
    count.add_argument("file", metavar="FILE.jsonl")
    count.set_defaults(run=run_data_count)


def _load(arguments: Any) -> "Model":
    """The model asked for, its adapter on it; says so on standard error when a person is watching."""
    import castor

    if sys.stderr.isatty():
        print(f"\033[2mloading {arguments.model} …\033[0m", end="\r", file=sys.stderr, flush=True)
    kept = {"quantize": arguments.quantize, "cache": arguments.cache, "guess": arguments.guess}
    model = castor.load(arguments.model, adapter=arguments.adapter, **kept)
    if sys.stderr.isatty():
        print("\033[K", end="", file=sys.stderr, flush=True)
    return model


def run_demo(arguments: Any) -> None:
    """castor demo."""
    from castor import demo

    own = demo.user_inputs(arguments.files, arguments.question, arguments.draw)
    is_own = bool(own.items or own.drawings)
    demo.run_demo(_load(arguments), own if is_own else None, arguments.out, model_name=arguments.model)


def run_generate(arguments: Any) -> None:
    """castor generate: files and the name of `--out` are checked before the model is loaded."""
    if not arguments.parts:
        raise ValueError('nothing to answer; try: castor generate --image photo.png "What is this?"')
    from castor.content import Message
    from castor.demo.say import part_of, png_path, say

    if arguments.out:
        png_path(arguments.out)
    message = Message.user(*(part_of(kind, value) for kind, value in arguments.parts))
    say(_load(arguments), [message], out=arguments.out, **_sampling(arguments))


def run_chat(arguments: Any) -> None:
    """castor chat."""
    from castor.demo.chat import chat

    chat(_load(arguments), **_sampling(arguments))


def _sampling(arguments: Any) -> dict[str, Any]:
    return {"max_tokens": arguments.max_tokens, "temperature": arguments.temperature, "seed": arguments.seed}


def run_train(arguments: Any) -> int:
    """castor train: runs a recipe, or lists them."""
    from castor import recipes

    if arguments.recipe is None:
        for name, recipe in recipes.RECIPES.items():
            print(f"{name:<16} {(recipe.__doc__ or '').strip().splitlines()[0] if recipe.__doc__ else ''}")
        return 0
    if "=" in arguments.recipe:
        raise ValueError(
            f"{arguments.recipe!r} is a setting; the recipe's name comes first: {', '.join(recipes.RECIPES)}"
        )
    model = [] if arguments.model is None else [f"model={arguments.model}"]
    return 0 if recipes.run(arguments.recipe, [*model, *arguments.overrides]) else 130


def run_merge(arguments: Any) -> None:
    """castor merge."""
    import castor

    model = castor.load(arguments.model, adapter=arguments.adapter, device="cpu")
    model.save(arguments.out, precision=arguments.precision)
    print(arguments.out)


def run_speedrun(arguments: Any) -> int:
    """castor speedrun."""
    from castor.recipes.speedrun import speedrun

    return 130 if speedrun(arguments.overrides) is None else 0


def run_eval(arguments: Any) -> None:
    """castor eval: a table, and the report in the files asked for."""
    if arguments.embedding:
        run_eval_embedding(arguments)
        return
    from rich.console import Console

    from castor.evals.table import report_table
    from castor.recipes.evaluation import evaluate_model

    model = _load(arguments)
    report = evaluate_model(
        model, limit=arguments.limit or 100, data=arguments.data, seed=arguments.seed, records_path=arguments.records
    )
    Console().print(report_table(report, slices=arguments.slices))
    _write_report(arguments, report)


def _write_report(arguments: Any, report: Any) -> None:
    for path, text in ((arguments.json, report.dumps), (arguments.markdown, report.to_markdown)):
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text(), encoding="utf-8")
            print(path)


def run_eval_embedding(arguments: Any) -> None:
    """castor eval --embedding: recall of pools, by size and storage of vectors."""
    if arguments.records or arguments.slices:
        raise ValueError("--embedding has no answers to record, and always shows its slices")
    from rich.console import Console

    from castor.evals.table import retrieval_tables
    from castor.recipes.retrieval import evaluate_embedding

    model = _load(arguments)
    report = evaluate_embedding(model, limit=arguments.limit or 1000, data=arguments.data, seed=arguments.seed)
    for table in retrieval_tables(report):
        Console().print(table)
    _write_report(arguments, report)


def run_data_make(arguments: Any) -> None:
    """castor data make: examples as JSON lines."""
    from castor.diorama.draw import LANGUAGES
    from castor.diorama.world import World

    languages = tuple(arguments.languages.split(",")) if arguments.languages else LANGUAGES
    world = World(seed=arguments.seed, split=arguments.split, languages=languages)
    tasks = arguments.tasks.split(",") if arguments.tasks else makeable_tasks(world.tasks)
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8") as file:
        for task in tasks:
            for index in range(arguments.count):
                file.write(json.dumps(world.example(task, index).to_json(), ensure_ascii=False) + "\n")
            print(f"{task}: {arguments.count} examples", file=sys.stderr)
    print(out)


def makeable_tasks(tasks: Sequence[str]) -> list[str]:
    """The tasks this machine can make; says on standard error which it leaves out for want of a voice."""
    from castor.diorama.speech import speech_available
    from castor.diorama.spoken import NEEDS_SPEECH

    if speech_available():
        return list(tasks)
    silent = [task for task in tasks if task in NEEDS_SPEECH]
    print(
        f"no speech synthesiser here (pip install 'castor[synth]'): without {', '.join(silent)}",
        file=sys.stderr,
    )
    return [task for task in tasks if task not in NEEDS_SPEECH]


def run_data_look(arguments: Any) -> None:
    """castor data look: examples as a page."""
    from castor.diorama.gallery import write_gallery
    from castor.diorama.world import World

    print(write_gallery(World(seed=arguments.seed), arguments.out, per_task=arguments.count))


def run_data_count(arguments: Any) -> None:
    """Counts by task without decoding any media."""
    from rich.console import Console
    from rich.table import Table

    counts: dict[str, Counter[str]] = {}
    with open(arguments.file, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                example = json.loads(line)
                parts = [part for message in example["contents"] for part in message["parts"]]
                texts = [part["text"] for part in parts if part.get("text") is not None]
                task = counts.setdefault(str(example["task"]), Counter())
                task["turns"] += sum(message.get("role") == "model" for message in example["contents"])
                task["characters"] += sum(map(len, texts))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise ValueError(f"{arguments.file}, line {number}: not an example: {error!r}") from None
            task["examples"] += 1
            task["media"] += len(parts) - len(texts)
    table = Table(title=arguments.file, title_justify="left")
    columns = ("examples", "turns", "characters", "media")
    table.add_column("task")
    for column in columns:
        table.add_column(column, justify="right")
    for name, task in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
        table.add_row(name, *(f"{task[column]:,}" for column in columns))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
