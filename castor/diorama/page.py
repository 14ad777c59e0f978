"""Pages: small PDF documents with a title, a table and a coloured shape, and questions on them.

The PDF is written by hand (one page, the built-in Helvetica, vector shapes), so making one costs nothing and
needs no library. Text is Latin; Chinese and Hindi ask in their own words about it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from castor.content import Document
from castor.diorama.draw import Draw, Maker
from castor.diorama.lettering import INKS, vocabulary
from castor.diorama.quiz import Asked, quiz
from castor.diorama.scene import COLOURS
from castor.diorama.words import answer_word, shape_word
from castor.example import Example

SIDE_PT = 128
PAINTS = {  # of the shape on the page
    "red": (220, 40, 40), "green": (40, 160, 60), "blue": (40, 80, 220), "yellow": (240, 210, 40),
    "orange": (245, 140, 30), "purple": (140, 50, 180), "pink": (245, 130, 180), "black": (20, 20, 20),
}  # fmt: skip
DRAWN_SHAPES = ("circle", "square", "triangle", "cross")

QUESTIONS = {
    "en": {
        "title": ("What is the title?", "What does the title say?"),
        "cell": ("What is the number for {0}?", "Which number stands next to {0}?"),
        "most": ("Which word has the largest number?",),
        "colour": ("What colour is the shape?",),
        "shape": ("Which shape is on the page?",),
        "rows": ("How many rows does the table have?",),
    },
    "zh": {
        "title": ("标题是什么？",),
        "cell": ("{0} 的数字是多少？",),
        "most": ("哪个词的数字最大？",),
        "colour": ("图形是什么颜色的？",),
        "shape": ("页面上是什么图形？",),
        "rows": ("表格有几行？",),
    },
    "es": {
        "title": ("¿Cuál es el título?",),
        "cell": ("¿Cuál es el número de {0}?",),
        "most": ("¿Qué palabra tiene el número mayor?",),
        "colour": ("¿De qué color es la figura?",),
        "shape": ("¿Qué figura hay en la página?",),
        "rows": ("¿Cuántas filas tiene la tabla?",),
    },
    "fr": {
        "title": ("Quel est le titre ?",),
        "cell": ("Quel nombre va avec {0} ?",),
        "most": ("Quel mot a le plus grand nombre ?",),
        "colour": ("De quelle couleur est la forme ?",),
        "shape": ("Quelle forme y a-t-il sur la page ?",),
        "rows": ("Combien de lignes a le tableau ?",),
    },
    "de": {
        "title": ("Wie lautet der Titel?",),
        "cell": ("Welche Zahl steht bei {0}?",),
        "most": ("Welches Wort hat die größte Zahl?",),
        "colour": ("Welche Farbe hat die Form?",),
        "shape": ("Welche Form ist auf der Seite?",),
        "rows": ("Wie viele Zeilen hat die Tabelle?",),
    },
    "hi": {
        "title": ("शीर्षक क्या है?",),
        "cell": ("{0} की संख्या क्या है?",),
        "most": ("किस शब्द की संख्या सबसे बड़ी है?",),
        "colour": ("आकृति का रंग क्या है?",),
        "shape": ("पन्ने पर कौन सी आकृति है?",),
        "rows": ("तालिका में कितनी पंक्तियाँ हैं?",),
    },
}


@dataclass(frozen=True)
class Page:
    """What a page shows."""

    title: str
    rows: tuple[tuple[str, int], ...]
    shape: str
    colour: str


def draw_page(rng: random.Random, language: str) -> Page:
    """A random page with two to four table rows."""
    short = [word for word in vocabulary(language, False) if len(word) <= 6]
    title, *words = rng.sample(short, 1 + rng.randint(2, 3))
    rows = tuple(zip(words, rng.sample(range(2, 100), len(words)), strict=True))
    return Page(title.upper() if "ß" not in title else title, rows, rng.choice(DRAWN_SHAPES), rng.choice(COLOURS))


def write_pdf(operators: str) -> bytes:
    """A one-page PDF, `SIDE_PT` a side, of drawing operators; /F and /B are Helvetica plain and bold."""
    stream = operators.encode("cp1252")
    fonts = " ".join(
        f"/{key} << /Type /Font /Subtype /Type1 /BaseFont /{name} /Encoding /WinAnsiEncoding >>"
        for key, name in (("F", "Helvetica"), ("B", "Helvetica-Bold"))
    )
    bodies = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {SIDE_PT} {SIDE_PT}] /Contents 4 0 R "
        f"/Resources << /Font << {fonts} >> >> >>".encode(),
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    )
    document, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(bodies, start=1):
        offsets.append(len(document))
        document += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    end = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(bodies) + 1, len(document))
    return document + b"xref\n0 %d\n0000000000 65535 f \n" % (len(bodies) + 1) + table + end


def _ink(colour: Sequence[int]) -> str:
    return " ".join(f"{channel / 255:.3f}" for channel in colour) + " rg"


def _text(words: str, x: float, y: float, size: int, face: str = "F") -> str:
    escaped = words.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
    return f"BT /{face} {size} Tf {x:.1f} {y:.1f} Td ({escaped}) Tj ET"


def _shape(shape: str, x: float, y: float, r: float) -> str:
    if shape == "square":
        return f"{x - r:.1f} {y - r:.1f} {2 * r:.1f} {2 * r:.1f} re f"
    if shape == "cross":
        arm = 0.35 * r
        return (f"{x - r:.1f} {y - arm:.1f} {2 * r:.1f} {2 * arm:.1f} re "
                f"{x - arm:.1f} {y - r:.1f} {2 * arm:.1f} {2 * r:.1f} re f")  # fmt: skip
    if shape == "triangle":
        return f"{x:.1f} {y + r:.1f} m {x - r:.1f} {y - r:.1f} l {x + r:.1f} {y - r:.1f} l h f"
    assert shape == "circle", shape
    k, path = 0.5523 * r, f"{x + r:.1f} {y:.1f} m "
    corners = ((1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0))
    for ax, ay, bx, by in corners:  # a quarter of the circle from (ax, ay) to (bx, by)
        path += f"{x + ax * r + bx * k:.1f} {y + ay * r + by * k:.1f} "
        path += f"{x + bx * r + ax * k:.1f} {y + by * r + ay * k:.1f} {x + bx * r:.1f} {y + by * r:.1f} c "
    return path + "h f"


def to_pdf(page: Page, rng: random.Random) -> bytes:
    """The page as PDF: title on top, a ruled table below it, the shape in a corner of the foot."""
    operators = [_ink(rng.choice(tuple(INKS.values()))), _text(page.title, 8, 103, 22, "B"), "0.6 G 0.8 w"]
    for place, (word, number) in enumerate(page.rows):
        y = 80 - 19 * place
        operators += [f"8 {y - 5} m 120 {y - 5} l S", _ink((20, 20, 24)), _text(word, 10, y, 15)]
        operators.append(_text(str(number), 96, y, 15))
    x = rng.choice((24, 64, 104))
    operators += [_ink(PAINTS[page.colour]), _shape(page.shape, x, 18, 14)]
    return write_pdf("\n".join(operators))


def ask(page: Page, kind: str, language: str, rng: random.Random) -> Asked:
    """One question on the page."""
    word, number = rng.choice(page.rows)
    answers = {
        "title": page.title,
        "cell": str(number),
        "most": max(page.rows, key=lambda row: row[1])[0],
        "colour": answer_word(language, page.colour),
        "shape": shape_word(language, page.shape),
        "rows": str(len(page.rows)),
    }
    return Asked(rng.choice(QUESTIONS[language][kind]).format(word), answers[kind], kind)


def document(draw: Draw) -> Example:
    """A one-page PDF and questions on it."""
    page = draw_page(draw.rng, "en" if draw.language in ("zh", "hi") else draw.language)
    kinds = draw.rng.sample(("title", "title", "cell", "cell", "most", "colour", "shape", "rows"), draw.num_turns())
    asked = [ask(page, kind, draw.language, draw.rng) for kind in dict.fromkeys(kinds)]
    meta = {
        "title": page.title,
        "rows": [list(row) for row in page.rows],
        "shape": page.shape,
        "colour": page.colour,
    }
    return quiz(draw, [Document(to_pdf(page, draw.rng))], asked, meta=meta)


TASKS: dict[str, Maker] = {"document": document}
