"""The verbs index, search and ask. A part of `cli.py`."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from castor.cli_options import prompt_options, sampling_options, whole

if TYPE_CHECKING:
    from castor.index.build import Report
    from castor.index.index import Index

INDEX = """\
Makes a folder of one's own files findable: pictures, recordings, films, PDFs, notes and code.

  castor index ~/things                            embeds what is new or changed, forgets what is gone
  castor index                                     the same for every folder indexed before
  castor index ~/things --model google/embeddinggemma-2 --index ~/big-index
  castor index --status                            what is in it, and what could not be read and why
  castor index --export s3://bucket/things.lance   a copy as a Lance table, for what outgrows a machine

Long files are split: PDFs into pages, sound and film into pieces of up to 30 seconds, texts along headings,
paragraphs and functions. Ctrl-C, or a crash, loses nothing that was finished: the same command goes on. A renamed
file is not embedded again. Without --index, the index lies in $CASTOR_INDEX or ~/.local/share/castor/index.
"""

SEARCH = """\
Finds files by meaning and by word; texts and files given together are one question.

  castor search "a red boat"
  castor search --image photo.jpg "but in winter"  the same picture, changed by words
  castor search --audio call.wav --kind audio --after 2026-05
  castor search --like a.jpg --like b.jpg --unlike c.jpg      more like these, unlike that
  castor search "invoice" --path "*.pdf" --json | jq -r .path
  castor search "a red boat" --page found.html     a page with thumbnails
  castor search --duplicates                       copies, and what is nearly the same
  castor search --labels "cat,dog,receipt"         the nearest label of each file
  castor search --map map.html                     everything in groups, on a map
"""

ASK = """\
Answers from one's own files, and says from which.

  castor ask "When does the lease end?"
  castor ask "What is on the whiteboard?" --kind image --writer google/gemma-4-E2B-it
"""
SEARCH_USAGE = "castor search [TEXT | --image FILE | --audio FILE | --video FILE | --document FILE]... [options]"
ASK_USAGE = "castor ask [TEXT | --image FILE | --audio FILE | --video FILE | --document FILE]... [options]"
SWITCHES = ("--json", "--each", "--no-words", "--pieces", "--duplicates")  # options of search and ask without a value
MOST_TOLD = 20  # unreadable files that are listed one by one


def add_search_verbs(verb: Callable[..., Any]) -> None:
    """Add them to the command line; `verb` makes one of a name, what it runs, a summary and a text."""
    _index_options(verb("index", run_index, "make a folder of files findable", INDEX))
    _search_options(verb("search", run_search, "find files by meaning and by word", SEARCH, usage=SEARCH_USAGE))
    ask = verb("ask", run_ask, "answer from one's own files, with sources", ASK, usage=ASK_USAGE)
    prompt_options(ask)
    _where_options(ask)
    ask.add_argument("--count", type=whole, default=5, metavar="N", help="pieces that it reads (default: 5)")
    ask.add_argument("--writer", default="atom", metavar="NAME", help="the model that answers (default: atom)")
    ask.add_argument("--json", action="store_true", help="answer and sources as one JSON object")
    sampling_options(ask)


def _index_options(parser: Any) -> None:
    parser.add_argument("folders", nargs="*", metavar="DIR", help="folders to bring in (default: all known ones)")
    parser.add_argument("--index", metavar="FOLDER", help="where the index lies (default: see above)")
    parser.add_argument(
        "--model", metavar="NAME", help="a model that makes vectors (default: the index's, or atom-vectors)"
    )
    parser.add_argument("--dimensions", type=whole, metavar="N", help="of a new index: keep the first N numbers")
    parser.add_argument("--storage", help="of a new index: float32 (default), float16 or int8")
    parser.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="names or paths to leave out")
    parser.add_argument("--retry", action="store_true", help="try again what could not be read")
    parser.add_argument("--check-all", action="store_true", help="read every file, even if size and time are as before")
    parser.add_argument(
        "--graph", action="store_true", help="make a graph for approximate search, and state its recall"
    )
    parser.add_argument("--forget", metavar="DIR", help="drop a folder with its files from the index")
    parser.add_argument("--export", metavar="PLACE.lance", help="write all as a Lance table: a folder, s3://, gs://")
    parser.add_argument("--status", action="store_true", help="only say what is in the index")
    parser.add_argument("--json", action="store_true", help="the report as one JSON object")
    parser.add_argument("--ray", metavar="ADDRESS", help='embed on a Ray cluster ("local" begins one here)')
    parser.add_argument("--workers", type=whole, default=2, metavar="N", help="with --ray: models at work (default: 2)")


def _where_options(parser: Any) -> None:
    parser.add_argument("--index", metavar="FOLDER", help="where the index lies")
    parser.add_argument("--model", metavar="NAME", help="the model that the index was made with, if it has moved")
    parser.add_argument("--kind", action="append", default=[], help="image, audio, video, document, text or code")
    parser.add_argument("--path", action="append", default=[], metavar="GLOB", help='such as "*.md" or "trips/*"')
    parser.add_argument("--after", metavar="DATE", help="from that day on: 2026, 2026-05, 2026-05-17, or 7d")
    parser.add_argument("--before", metavar="DATE", help="before that day")


def _search_options(parser: Any) -> None:
    prompt_options(parser)
    _where_options(parser)
    parser.add_argument("--count", type=whole, default=10, metavar="N", help="how many (default: 10)")
    parser.add_argument("--each", action="store_true", help="several questions, whose answers are joined")
    parser.add_argument("--like", action="append", default=[], metavar="FILE", help="more like this; may be repeated")
    parser.add_argument("--unlike", action="append", default=[], metavar="FILE", help="less like this; may be repeated")
    parser.add_argument("--no-words", action="store_true", help="by meaning alone, not by the words of texts and names")
    parser.add_argument("--pieces", action="store_true", help="every page, passage and stretch (default: files once)")
    parser.add_argument("--form", default="auto", help="exact, int8, bits or graph (default: by the index's size)")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("--page", metavar="FILE.html", help="also write a page with thumbnails")
    parser.add_argument("--duplicates", action="store_true", help="groups of files that are nearly the same")
    parser.add_argument(
        "--likeness", type=float, default=0.98, metavar="C", help="of duplicates: cosine (default: 0.98)"
    )
    parser.add_argument("--labels", metavar="A,B,...", help="the nearest of these for each file")
    parser.add_argument("--map", metavar="FILE.html", help="groups of files, on a map")
    parser.add_argument("--clusters", type=whole, metavar="N", help="with --map: how many groups")


def index_folder(given: str | None) -> Path:
    """Where the index lies: as given, else $CASTOR_INDEX, else the user's data folder."""
    if given or os.environ.get("CASTOR_INDEX"):
        return Path(given or os.environ["CASTOR_INDEX"]).expanduser()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "castor" / "index"


def run_index(arguments: Any) -> int:
    """castor index: folders are checked before the model is loaded."""
    from castor.index.index import Index
    from castor.index.store import Store
    from castor.index.walk import root_of

    folder = index_folder(arguments.index)
    folders = [root_of(each) for each in arguments.folders]
    is_there = Store.is_begun(folder)
    if not is_there and (arguments.status or arguments.forget or arguments.export or not folders):
        raise ValueError(f"{folder}: there is no index here yet; to make one: castor index DIR")
    model = arguments.model if is_there else arguments.model or "atom-vectors"
    index = Index(folder, model=model, dimensions=arguments.dimensions, storage=arguments.storage)
    if arguments.forget:
        print(f"{arguments.forget}: {_files(index.forget(arguments.forget))} dropped from the index")
        return 0
    if arguments.export:
        _export(index, arguments.export)
        return 0
    if arguments.status:
        _tell_status(index, as_json=arguments.json)
        return 0
    if arguments.model:
        index.load_model()  # another one than the index's is refused before anything is done
    from castor.index.build import UpdateConfig

    config = UpdateConfig(exclude=tuple(arguments.exclude), retry=arguments.retry, check_all=arguments.check_all)
    lost = [root for root in index.store.roots() if not folders and not Path(root).is_dir()]
    for root in [root for root in folders or index.store.roots() if root not in lost]:
        report = _updated(index, root, config, arguments)
        _tell_report(root, report, as_json=arguments.json)
        if report.is_interrupted:
            return 130
    _keep_graph(index, wanted=arguments.graph)
    for root in lost:
        print(
            f"castor: {root} is not there, its files are kept; to drop them: castor index --forget {root}",
            file=sys.stderr,
        )
    return 2 if lost else 0


def _export(index: Index, place: str) -> None:
    from castor.index.export import export
    from castor.log import LiveLine

    line = LiveLine("exporting", len(index.store.piece_ids()))
    count = export(index, place, lambda done, total: line.update(done, f"{done:,} of {total:,} pieces"))
    line.close("done")
    print(f"{place}: {count:,} rows")


def _updated(index: Index, root: str, config: Any, arguments: Any) -> Report:
    from castor.log import LiveLine

    line: list[LiveLine] = []

    def progress(done: int, total: int, report: Report) -> None:
        if not line:
            line.append(LiveLine("indexing", total))
        files = report.num_new + report.num_changed + report.num_moved
        rate = report.num_pieces / max(report.seconds["embed"] + report.seconds["wait"], 1e-9)
        line[0].update(done, f"{files} files, {report.num_pieces} pieces, {rate:.1f} a second")

    if arguments.ray:
        from castor.index.on_ray import update_on_ray

        report = update_on_ray(index, root, arguments.ray, config, num_workers=arguments.workers, progress=progress)
    else:
        report = index.update(root, config, progress)
    if line:
        line[0].close("stopped" if report.is_interrupted else "done")
    return report


def _tell_report(root: str, report: Report, *, as_json: bool) -> None:
    if as_json:
        counts = {name[4:]: value for name, value in vars(report).items() if name.startswith("num_")}
        seconds = {name: round(value, 3) for name, value in report.seconds.items()}
        rest = {"problems": [list(problem) for problem in report.problems], "interrupted": report.is_interrupted}
        print(json.dumps({"folder": root, **counts, "seconds": seconds, **rest}, ensure_ascii=False))
        return
    told = [
        f"{count:,} {word}"
        for count, word in (
            (report.num_new, "new"),
            (report.num_changed, "changed"),
            (report.num_moved, "renamed"),
            (report.num_dropped, "gone"),
            (report.num_same, "as before"),
        )
        if count
    ]
    print(f"{root}: {', '.join(told) or 'no files'}; {report.num_pieces:,} pieces embedded in {report.total_s:.1f} s")
    _tell_problems(report.problems)
    if report.is_interrupted:
        print("castor: interrupted; all that was finished is kept, the same command goes on", file=sys.stderr)


def _tell_problems(problems: Sequence[tuple[str, str]]) -> None:
    """What could not be read: kinds that never are as counts, other files one by one."""
    from rich.table import Table

    if not problems:
        return
    other_kinds = Counter(why for _, why in problems if why.startswith("not a kind of file"))
    broken = [(path, why) for path, why in problems if why not in other_kinds]
    table = Table("not in the index", "why", title=_files(len(problems)), title_justify="left")
    for path, why in broken[:MOST_TOLD]:
        table.add_row(_plain(path), _plain(why))
    if len(broken) > MOST_TOLD:
        table.add_row(f"and {len(broken) - MOST_TOLD:,} more", "castor index --status --json names all")
    for why, count in other_kinds.most_common():
        table.add_row(_files(count), why)
    _console().print(table)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _tell_status(index: Index, *, as_json: bool) -> None:
    from castor.index.graph import Graph

    header, store = index.store.header, index.store
    facts, size = Graph.facts(store), sum(path.stat().st_size for path in index.folder.rglob("*") if path.is_file())
    if as_json:
        counts = {kind: {"files": files, "pieces": pieces} for kind, (files, pieces) in store.counts().items()}
        about = {"model": header.model, "dimensions": header.dimensions, "storage": header.storage, "bytes": size}
        graph = {"graph": vars(facts)} if facts else {}
        problems = [{"path": path, "why": why} for path, why in store.problems()]
        told = {"folder": str(index.folder), "roots": store.roots(), **about, "kinds": counts, **graph}
        print(json.dumps({**told, "problems": problems}, ensure_ascii=False))
        return
    print(f"{index.folder}: {size / 1e6:.1f} MB; vectors of {header.model}, {header.dimensions} x {header.storage}")
    print("folders: " + (", ".join(store.roots()) or "none"))
    for kind, (files, pieces) in store.counts().items():
        print(f"{kind:<10} {files:>9,} files {pieces:>9,} pieces")
    if facts:
        print(f"graph of {facts.kind}: {100 * facts.recall_10:.1f} % of the exact ten nearest are found")
    _tell_problems(store.problems())


def _keep_graph(index: Index, *, wanted: bool) -> None:
    """A graph where one is asked for, and where one is kept or due: a large index without one is searched by bits."""
    from castor.index.graph import GRAPH_FROM, Graph, has_usearch

    vectors = index.vectors()
    is_due = len(vectors) >= GRAPH_FROM and has_usearch() and Graph.is_stale(index.store, vectors)
    if not wanted and not is_due:
        if len(vectors) >= GRAPH_FROM and not has_usearch():
            print("castor: searches in so many pieces are faster with: pip install 'castor[search]'", file=sys.stderr)
        return
    facts = Graph.build(index.store, vectors)
    print(f"graph of {facts.kind}: {100 * facts.recall_10:.1f} % of the exact ten nearest are found", file=sys.stderr)


def run_search(arguments: Any) -> None:
    """castor search: files of the question are read before the model is loaded."""
    from castor.demo.say import part_of
    from castor.index.index import Index

    parts = [part_of(kind, value) for kind, value in arguments.parts or []]
    for option in ("page", "map"):
        given = getattr(arguments, option)
        if given and not given.endswith((".html", ".htm")):
            raise ValueError(f"--{option} {given}: it is written as HTML, so the name must end in .html")
    index = Index(index_folder(arguments.index), model=arguments.model)
    filters = _filters(arguments)
    if arguments.duplicates or arguments.labels or arguments.map:
        from castor.cli_groups import tell_groups

        tell_groups(index, arguments, filters)
        return
    hits = index.search(
        *parts,
        k=arguments.count,
        each=arguments.each,
        words=not arguments.no_words,
        per_file=not arguments.pieces,
        form=arguments.form,
        like=arguments.like,
        unlike=arguments.unlike,
        **filters,
    )
    asked = [value for _, value in arguments.parts or []]
    if arguments.page:
        from castor.index.page import results_page

        Path(arguments.page).write_text(results_page(asked, hits), encoding="utf-8")
        print(arguments.page, file=sys.stderr)
    tell_hits(hits, " ".join(value for kind, value in arguments.parts or [] if kind == "text"), as_json=arguments.json)


def _filters(arguments: Any) -> dict[str, Any]:
    return {
        "kinds": tuple(kind for given in arguments.kind for kind in given.split(",")),
        "paths": tuple(arguments.path),
        "after": arguments.after,
        "before": arguments.before,
    }


def tell_hits(hits: Sequence[Any], question: str, *, as_json: bool) -> None:
    """Results as a table for a person, or as JSON lines."""
    if as_json:
        for hit in hits:
            print(json.dumps(hit.to_json(), ensure_ascii=False))
        return
    if not hits:
        print("nothing found", file=sys.stderr)
        return
    from rich.table import Table

    from castor.index.words import terms

    table = Table("score", "by", "kind", "file", "place", "what it says", box=None, header_style="dim", pad_edge=False)
    table.columns[3].overflow = "fold"
    for hit in hits:
        shown = hit.snippet(terms(question)) or ", ".join(str(place) for place in hit.more)
        place = str(hit.place)
        by = ", ".join(hit.found_by)
        table.add_row(f"{hit.score:.3f}", by, hit.kind, _plain(_shown_path(hit.path)), place, _plain(shown))
    _console().print(table)


def run_ask(arguments: Any) -> None:
    """castor ask: the answer on standard output, then its sources."""
    import castor
    from castor.demo.say import part_of
    from castor.index.answer import answer
    from castor.index.index import Index

    if not arguments.parts:
        raise ValueError('nothing to answer; try: castor ask "When does the lease end?"')
    parts = [part_of(kind, value) for kind, value in arguments.parts]
    index = Index(index_folder(arguments.index), model=arguments.model)
    sampling = {"max_tokens": arguments.max_tokens, "temperature": arguments.temperature, "seed": arguments.seed}
    found = answer(index, castor.load(arguments.writer), parts, k=arguments.count, **_filters(arguments), **sampling)
    if arguments.json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
        return
    print(found.text)
    for number, hit in enumerate(found.sources, start=1):
        mark = "*" if number in found.cited else " "
        print(f"{mark}[{number}] {_shown_path(hit.path)} {hit.place}".rstrip())
    if not found.cited:
        print("castor: the answer names none of the sources it was given; check it against them", file=sys.stderr)


def _console() -> Any:
    """As wide as the terminal; where no one looks live, wide enough for paths."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=240)


def _shown_path(path: str) -> str:
    """Relative to here where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(path) else path


def _plain(text: str) -> Any:
    """A text in which rich finds no markup."""
    from rich.text import Text

    return Text(text)
