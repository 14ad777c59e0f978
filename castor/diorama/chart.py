"""Charts: small bar, line and pie charts with lettered categories, and questions on what they show.

All values are whole numbers from 1 to 9 and differ within a chart, so every question has one answer.
"""

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw

from castor.content import Image
from castor.diorama.draw import Draw, Maker
from castor.diorama.lettering import INKS, PAPERS, SIDE_PX, font
from castor.diorama.quiz import Asked, quiz
from castor.example import Example

LABELS = (
    tuple("ABCDE"), tuple("KLMNP"), tuple("STUVX"), ("Mon", "Tue", "Wed", "Thu", "Fri"),
    ("cat", "dog", "cow", "pig", "hen"), ("tea", "egg", "jam", "nut", "pie"),
)  # fmt: skip
TOP_PX, BOTTOM_PX, LEFT_PX, RIGHT_PX = 8, 108, 18, 124  # the plot area of bar and line charts
MAX_VALUE = 10
DARK = (20, 20, 24)

QUESTIONS = {
    "en": {
        "highest": ("Which is the highest?", "Which one has the highest value?", "Which is the largest?"),
        "lowest": ("Which is the lowest?", "Which one has the lowest value?", "Which is the smallest?"),
        "value": ("What is the value of {0}?", "How much is {0}?"),
        "count_bar": ("How many bars are there?",),
        "count_line": ("How many points are there?",),
        "count_pie": ("How many slices are there?",),
        "compare": ("Which is larger, {0} or {1}?", "Which has more, {0} or {1}?"),
    },
    "zh": {
        "highest": ("哪一个最高？", "哪一个最大？"),
        "lowest": ("哪一个最低？", "哪一个最小？"),
        "value": ("{0} 的值是多少？", "{0} 是多少？"),
        "count_bar": ("有几个柱子？",),
        "count_line": ("有几个点？",),
        "count_pie": ("有几个扇形？",),
        "compare": ("{0} 和 {1} 哪个更大？",),
    },
    "es": {
        "highest": ("¿Cuál es el más alto?", "¿Cuál es el mayor?"),
        "lowest": ("¿Cuál es el más bajo?", "¿Cuál es el menor?"),
        "value": ("¿Cuál es el valor de {0}?", "¿Cuánto vale {0}?"),
        "count_bar": ("¿Cuántas barras hay?",),
        "count_line": ("¿Cuántos puntos hay?",),
        "count_pie": ("¿Cuántos sectores hay?",),
        "compare": ("¿Cuál es mayor, {0} o {1}?",),
    },
    "fr": {
        "highest": ("Lequel est le plus haut ?", "Lequel est le plus grand ?"),
        "lowest": ("Lequel est le plus bas ?", "Lequel est le plus petit ?"),
        "value": ("Quelle est la valeur de {0} ?", "Combien vaut {0} ?"),
        "count_bar": ("Combien de barres y a-t-il ?",),
        "count_line": ("Combien de points y a-t-il ?",),
        "count_pie": ("Combien de parts y a-t-il ?",),
        "compare": ("Lequel est le plus grand, {0} ou {1} ?",),
    },
    "de": {
        "highest": ("Was ist am höchsten?", "Was ist am größten?"),
        "lowest": ("Was ist am niedrigsten?", "Was ist am kleinsten?"),
        "value": ("Welchen Wert hat {0}?", "Wie viel ist {0}?"),
        "count_bar": ("Wie viele Balken gibt es?",),
        "count_line": ("Wie viele Punkte gibt es?",),
        "count_pie": ("Wie viele Stücke gibt es?",),
        "compare": ("Was ist größer, {0} oder {1}?",),
    },
    "hi": {
        "highest": ("सबसे ऊँचा कौन सा है?", "सबसे बड़ा कौन सा है?"),
        "lowest": ("सबसे नीचा कौन सा है?", "सबसे छोटा कौन सा है?"),
        "value": ("{0} का मान क्या है?", "{0} कितना है?"),
        "count_bar": ("कितनी पट्टियाँ हैं?",),
        "count_line": ("कितने बिंदु हैं?",),
        "count_pie": ("कितने टुकड़े हैं?",),
        "compare": ("{0} और {1} में से कौन सा बड़ा है?",),
    },
}


@dataclass(frozen=True)
class Chart:
    """What a chart shows."""

    kind: str  # "bar", "line" or "pie"
    labels: tuple[str, ...]
    values: tuple[int, ...]


def draw_chart(rng: random.Random) -> Chart:
    """A random chart of three to five categories."""
    labels = rng.choice(LABELS)
    size = rng.randint(3, 5 if len(labels[0]) == 1 else 4)  # wider labels need wider columns
    if rng.random() < 0.5:
        labels = tuple(rng.sample(labels, len(labels)))
    return Chart(rng.choice(("bar", "bar", "line", "pie")), labels[:size], tuple(rng.sample(range(1, 10), size)))


def paint(chart: Chart, rng: random.Random) -> np.ndarray:
    """The chart as uint8 [128, 128, 3]."""
    picture = Picture.new("RGB", (SIDE_PX, SIDE_PX), rng.choice(PAPERS))
    if chart.kind == "pie":
        _paint_pie(picture, chart, rng)
    else:
        _paint_plot(picture, chart, rng)
    return np.asarray(picture)


def _height_px(value: int) -> int:
    return BOTTOM_PX - round(value * (BOTTOM_PX - TOP_PX) / MAX_VALUE)


def _is_valley(values: tuple[int, ...], place: int) -> bool:
    return all(value >= values[place] for value in values[max(0, place - 1) : place + 2])


def _paint_plot(picture: Picture.Image, chart: Chart, rng: random.Random) -> None:
    pen, paper = ImageDraw.Draw(picture), picture.getpixel((0, 0))
    for value in range(0, MAX_VALUE + 1):
        y = _height_px(value)
        pen.line((LEFT_PX, y, RIGHT_PX, y), fill=(150, 150, 155) if value % 5 == 0 else (215, 215, 220))
        if value % 5 == 0:
            pen.text((LEFT_PX - 3, y), str(value), font=font(11), fill=(60, 60, 65), anchor="rm")
    inks = rng.sample(tuple(INKS.values()), len(chart.values))
    if chart.kind == "line" or rng.random() < 0.5:
        inks = [inks[0]] * len(inks)
    pitch_px, shows_values = (RIGHT_PX - LEFT_PX) / len(chart.values), rng.random() < 0.5
    middles_px = [round(LEFT_PX + pitch_px * (place + 0.5)) for place in range(len(chart.values))]
    heights_px = [_height_px(value) for value in chart.values]
    if chart.kind == "line":
        pen.line(list(zip(middles_px, heights_px, strict=True)), fill=inks[0], width=2)
    columns = zip(middles_px, heights_px, chart.values, chart.labels, inks, strict=True)
    for place, (x, y, value, label, ink) in enumerate(columns):
        half_px = round(pitch_px * 0.33)
        if chart.kind == "bar":
            pen.rectangle((x - half_px, y, x + half_px, BOTTOM_PX), fill=ink)
        else:
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=ink)
        if shows_values:
            is_under = chart.kind == "line" and value > 1 and _is_valley(chart.values, place)
            spot, anchor = ((x, y + 5), "mt") if is_under else ((x, y - 4), "mb")
            pen.text(spot, str(value), DARK, font(11), anchor, stroke_width=2, stroke_fill=paper)
        pen.text((x, BOTTOM_PX + 3), label, DARK, font(15 if len(label) == 1 else 11), "ma")
    pen.line((LEFT_PX, TOP_PX, LEFT_PX, BOTTOM_PX, RIGHT_PX, BOTTOM_PX), fill=(60, 60, 65))


def _paint_pie(picture: Picture.Image, chart: Chart, rng: random.Random) -> None:
    scale, radius_px, middle_px = 2, 58, SIDE_PX / 2
    large = picture.resize((SIDE_PX * scale, SIDE_PX * scale))
    pen = ImageDraw.Draw(large)
    box = [scale * (middle_px - radius_px)] * 2 + [scale * (middle_px + radius_px)] * 2
    angle, labels = rng.uniform(0, 360), []
    inks = rng.sample([*INKS.values()], len(chart.values))
    for value, label, ink in zip(chart.values, chart.labels, inks, strict=True):
        wide = 360 * value / sum(chart.values)
        tint = tuple(round(0.45 * channel + 0.55 * 255) for channel in ink)
        pen.pieslice(box, angle, angle + wide, fill=tint, outline=(255, 255, 255), width=2 * scale)
        labels.append((np.deg2rad(angle + wide / 2), label))
        angle += wide
    picture.paste(large.reduce(scale))
    pen = ImageDraw.Draw(picture)
    for turn, label in labels:
        place = (middle_px + 0.7 * radius_px * np.cos(turn), middle_px + 0.7 * radius_px * np.sin(turn))
        pen.text(place, label, DARK, font(15 if len(label) == 1 else 11), "mm")


def ask(chart: Chart, kind: str, language: str, rng: random.Random) -> Asked:
    """One question on the chart; kinds: highest, lowest, value, count, compare."""
    values = dict(zip(chart.labels, chart.values, strict=True))
    forms = QUESTIONS[language]
    one, other = rng.sample(chart.labels, 2)
    answers = {
        "highest": max(values, key=values.__getitem__),
        "lowest": min(values, key=values.__getitem__),
        "value": str(values[one]),
        "count": str(len(values)),
        "compare": max((one, other), key=values.__getitem__),
    }
    form = rng.choice(forms[f"count_{chart.kind}" if kind == "count" else kind])
    return Asked(form.format(one, other), answers[kind], kind)


def chart(draw: Draw) -> Example:
    """A bar, line or pie chart with questions."""
    shown = draw_chart(draw.rng)
    kinds = ["highest", "lowest", "count", "compare"] + ([] if shown.kind == "pie" else ["value", "value"])
    asked = [
        ask(shown, kind, draw.language, draw.rng) for kind in draw.rng.sample(kinds, min(len(kinds), draw.num_turns()))
    ]
    asked = list({each.question: each for each in asked}.values())  # the same value is not asked twice
    meta = {"chart": shown.kind, "labels": list(shown.labels), "values": list(shown.values)}
    return quiz(draw, [Image.from_pixels(paint(shown, draw.rng))], asked, meta=meta, tags=(shown.kind,))


TASKS: dict[str, Maker] = {"chart": chart}
