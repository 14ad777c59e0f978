"""What `castor search` tells of all files at once: duplicates, labels, a map. A part of `cli.py`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from castor.index.index import Index


def tell_groups(index: Index, arguments: Any, filters: dict[str, Any]) -> None:
    """The one of the three that is asked for; ValueError where it is more than one, or a question beside it."""
    given = [name for name in ("duplicates", "labels", "map") if getattr(arguments, name)]
    if len(given) > 1 or arguments.parts:
        beside = "the question" if arguments.parts else f"--{given[1]}"
        raise ValueError(f"--{given[0]} is about all files; leave out {beside}")
    {"duplicates": _duplicates, "labels": _labels, "map": _map}[given[0]](index, arguments, filters)


def _duplicates(index: Index, arguments: Any, filters: dict[str, Any]) -> None:
    from castor.index.groups import duplicates
    from castor.index.page import groups_page

    groups = duplicates(index, arguments.likeness, **filters)
    lead = f"Files of which each has another at a cosine of {arguments.likeness:g} or more; 1 is a copy."
    _write(arguments.page, lambda: groups_page("Near duplicates", lead, groups))
    for group in groups:
        paths = [path for hit in group.hits for path in (hit.path, *hit.also)]
        if arguments.json:
            print(json.dumps({"likeness": group.score, "paths": paths}, ensure_ascii=False))
        else:
            print(f"{group.score:.3f}  " + "\n       ".join(paths))
    if not groups and not arguments.json:
        print("no duplicates", file=sys.stderr)


def _labels(index: Index, arguments: Any, filters: dict[str, Any]) -> None:
    from castor.index.groups import Group, classify
    from castor.index.page import groups_page

    found = classify(index, arguments.labels.split(","), **filters)
    by_label = {label: tuple(each.hit for each in found if each.label == label) for label in {e.label for e in found}}
    groups = [Group(name=label, hits=hits) for label, hits in sorted(by_label.items())]
    lead = "Each file under the nearest of the labels, the surest first. Nothing was trained on them."
    _write(arguments.page, lambda: groups_page("Files by label", lead, groups))
    for each in found:
        row = {"label": each.label, "score": round(each.hit.score, 4), "margin": round(each.margin, 4)}
        if arguments.json:
            print(json.dumps({**row, "path": each.hit.path, "kind": each.hit.kind}, ensure_ascii=False))
        else:
            print(f"{each.label:<20} {each.hit.score:6.3f} {each.margin:+6.3f}  {each.hit.path}")
    if not arguments.json:
        counts = Counter(each.label for each in found)
        print(", ".join(f"{label}: {count:,}" for label, count in counts.most_common()), file=sys.stderr)


def _map(index: Index, arguments: Any, filters: dict[str, Any]) -> None:
    from castor.index.groups import clusters
    from castor.index.page import map_page

    chart = clusters(index, arguments.clusters, **filters)
    _write(arguments.map, lambda: map_page(chart))
    for group in chart.groups:
        if arguments.json:
            places = ((hit.path, *chart.places[hit.content]) for hit in group.hits)
            files = [{"path": path, "x": round(x, 4), "y": round(y, 4)} for path, x, y in places]
            print(json.dumps({"group": group.name, "files": files}, ensure_ascii=False))
        else:
            print(f"{len(group.hits):>6,}  {group.name}")


def _write(path: str | None, made: Any) -> None:
    if path:
        Path(path).write_text(made(), encoding="utf-8")
        print(path, file=sys.stderr)
