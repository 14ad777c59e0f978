"""Results, groups and maps as one HTML file each, which holds all it shows and asks nothing of the network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from castor.index.groups import Chart, Group
from castor.index.hits import Hit
from castor.index.thumbnail import thumbnail

MAP_PX = 900
SHOWN = 8  # thumbnails of a group


def results_page(asked: Sequence[str], hits: Sequence[Hit]) -> str:
    """What was found for a question, with a thumbnail each; files are linked where they lie."""
    title = " + ".join(asked) or "like the examples"
    cards = "".join(_card(hit, f"{hit.score:.3f}") for hit in hits) or "<p>Nothing found.</p>"
    lead = f"{len(hits)} found, the best first. The number is the cosine of the vectors of question and piece."
    return _whole(title, lead, f'<div class="cards">{cards}</div>')


def groups_page(title: str, lead: str, groups: Iterable[Group]) -> str:
    """Groups of files, some of each as thumbnails."""
    return _whole(title, lead, "".join(_section(group) for group in groups))


def map_page(chart: Chart) -> str:
    """All files as points on a plane, coloured by group, and the groups below."""
    count = sum(len(group.hits) for group in chart.groups)
    lead = (
        f"{count:,} files in {len(chart.groups)} groups. Near each other means alike; the plane holds "
        f"{100 * chart.share:.0f} % of how the vectors differ. A group is named by words that are more frequent in it "
        "than in the others."
    )
    return _whole("Map of files", lead, map_svg(chart) + "".join(_section(group) for group in chart.groups))


def map_svg(chart: Chart) -> str:
    """The points as SVG, a circle for each file, which says its name."""
    points = []
    for at, group in enumerate(chart.groups):
        for hit in group.hits:
            x, y = chart.places[hit.content]
            px, py = (MAP_PX * (0.5 + 0.47 * value) for value in (x, -y))
            name = escape(Path(hit.path).name)
            points.append(
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="6" fill="{_colour(at, len(chart.groups))}">'
                f"<title>{name}</title></circle>"
            )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="map" viewBox="0 0 {MAP_PX} {MAP_PX}" role="img" '
        f'aria-label="map of files">{"".join(points)}</svg>'
    )


def _colour(at: int, count: int) -> str:
    """Hues as far from each other as there are groups, of two lightnesses in turn."""
    return f"hsl({math.floor(360 * at / max(count, 1))} 65% {45 if at % 2 else 58}%)"


def _section(group: Group) -> str:
    cards = "".join(_card(hit, f"{hit.score:.3f}") for hit in group.hits[:SHOWN])
    rest = f"<p>and {len(group.hits) - SHOWN:,} more</p>" if len(group.hits) > SHOWN else ""
    return (
        f"<h2>{escape(group.name)} <small>{len(group.hits):,} files</small></h2><div class='cards'>{cards}</div>{rest}"
    )


def _card(hit: Hit, number: str) -> str:
    path, place = Path(hit.path), str(hit.place)
    place = place if hit.kind != "image" else ""
    more = "".join(f"<span>{escape(str(each))}</span>" for each in hit.more if str(each))
    also = "".join(f'<p class="also">also {escape(other)}</p>' for other in hit.also)
    said = f"<blockquote>{escape(hit.snippet(length=240))}</blockquote>" if hit.text else ""
    date = hit.date.date().isoformat()
    return (
        f'<article><a href="{escape(path.as_uri(), quote=True)}">{thumbnail(hit)}<h3>{escape(path.name)}</h3></a>'
        f'<p class="facts"><b>{number}</b><span>{hit.kind}</span><span>{escape(place)}</span>{more}<span>{date}</span>'
        f"</p>{said}<p class='path'>{escape(str(path.parent))}</p>{also}</article>"
    )


def _whole(title: str, lead: str, body: str) -> str:
    style = files("castor.index").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{escape(title)}</h1><p>{escape(lead)}</p></header>\n{body}\n</main>\n</body>\n</html>\n"
    )
