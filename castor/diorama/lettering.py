"""Lettering: short words and numbers painted into pictures, and the task of reading them.

One typeface, the one inside Pillow, in many sizes, places, colours and slants, so that nothing needs
installing. It has unaccented Latin letters and digits only: words with other letters are never painted, and
Chinese and Hindi ask in their own words about English text.
Leaves out charts and pages, which borrow `font` and `INKS` from here.
"""

import functools
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from castor.content import Image
from castor.diorama.draw import Draw, Maker
from castor.diorama.quiz import Asked, quiz
from castor.example import Example

SIDE_PX = 128
LARGEST_PX = 44
Colour = tuple[int, int, int]

INKS: dict[str, Colour] = {
    "black": (20, 20, 24), "red": (200, 30, 35), "blue": (30, 60, 200), "green": (20, 125, 50),
    "purple": (120, 40, 160), "brown": (115, 65, 25), "teal": (0, 115, 125), "pink": (200, 40, 120),
}  # fmt: skip
PAPERS: tuple[Colour, ...] = (
    (255, 255, 255), (250, 245, 230), (232, 240, 250), (235, 247, 235), (252, 236, 236), (255, 248, 190),
)  # fmt: skip

WORDS = {
    "en": "apple bread cat dog door egg fish garden green hat house idea jam king lamp milk moon "
    "music night open orange paper queen rain river road school sea shop star stop sun table "
    "tea train tree water white wind yellow",
    "es": "agua amigo árbol azul barco café calle campo casa cielo ciudad flor gato grande hoja "
    "isla jardín leche libro luna luz mano mar mesa mundo niño noche pan perro pez playa rojo "
    "rosa sol tren uva verde viento vino zapato",
    "fr": "ami arbre bateau beau bleu café chat chien ciel clé école été eau fleur forêt gare grand "
    "herbe île jardin jour lait livre lune main maison mer monde neige noir nuit pain plage "
    "pluie pont rouge rue soleil train vert",
    "de": "Apfel Auge Bahn Baum Berg Blume Brot Buch Dorf Ei Feld Fisch Garten gelb grün Hand Haus "
    "Himmel Hund Insel Käse Katze Licht Meer Milch Mond Nacht Öl Regen rot Schiff Schule "
    "Sonne Stadt Straße Tee Tisch Tür Wald Wind",
}
NUM_HELD_OUT = 8  # of each list, every fifth word: never written in training
INVENTED = 0.4  # share of the words that training paints: letters are to be read, not words known
VOWELS, CONSONANTS = "aaeeiioou", "bcdfghjklmnpqrstvwxyz"

QUESTIONS = {
    "en": ("What does the text say?", "Read the text.", "What is written here?"),
    "zh": ("文字写的是什么？", "请读出文字。", "这里写着什么？"),
    "es": ("¿Qué dice el texto?", "Lee el texto.", "¿Qué está escrito aquí?"),
    "fr": ("Que dit le texte ?", "Lis le texte.", "Qu'est-ce qui est écrit ici ?"),
    "de": ("Was steht hier?", "Lies den Text.", "Was sagt der Text?"),
    "hi": ("यहाँ क्या लिखा है?", "पाठ पढ़ो।", "पाठ में क्या लिखा है?"),
}


@functools.lru_cache(maxsize=64)
def font(size_px: int) -> ImageFont.FreeTypeFont:
    """Pillow's own scalable typeface."""
    face = ImageFont.load_default(size_px)
    if not isinstance(face, ImageFont.FreeTypeFont):
        raise ValueError("lettering needs a Pillow built with FreeType")
    return face


@functools.cache
def vocabulary(language: str, unseen: bool) -> tuple[str, ...]:
    """Words to write, accents and all: those of training, or those held out from it."""
    words = WORDS[language].split()
    held_out = words[4::5][:NUM_HELD_OUT]
    return tuple(held_out) if unseen else tuple(word for word in words if word not in held_out)


@functools.cache
def paintable(language: str, unseen: bool) -> tuple[str, ...]:
    """The vocabulary as far as the typeface has its letters."""
    return tuple(word for word in vocabulary(language, unseen) if word.isascii())


def invented(rng: random.Random) -> str:
    """A word of one to three syllables that no list holds out."""
    held_out = {word.casefold() for language in WORDS for word in vocabulary(language, True)}
    while True:
        word = ""
        for _ in range(rng.choice((1, 1, 2, 2, 3))):
            onset, coda = (rng.choice(CONSONANTS) if rng.random() < share else "" for share in (0.85, 0.45))
            word += onset + rng.choice(VOWELS) + coda
        if len(word) > 1 and word not in held_out:
            return word


def draw_lines(rng: random.Random, language: str, unseen: bool, is_train: bool = False) -> list[str]:
    """One to three short lines of words and numbers, more of them in training; a held-out word where `unseen`.

    In training some of the words are invented.
    """
    seen = paintable(language, False)
    lines = []
    for _ in range(rng.choice((1, 2, 3, 3, 3) if is_train else (1, 1, 1, 2, 2, 3))):
        if rng.random() < 0.3:
            lines.append(str(rng.randrange(rng.choice((10, 100, 1000, 10_000)))))
        elif is_train and rng.random() < INVENTED:
            lines.append(invented(rng))
        else:
            lines.append(rng.choice(seen))
    if unseen:
        lines[rng.randrange(len(lines))] = rng.choice(paintable(language, True))
    case = rng.choice((str, str, str, str.upper, str.capitalize))
    return [case(line) for line in lines]


def paint(lines: Sequence[str], rng: random.Random, *, is_large: bool = False) -> np.ndarray:
    """The lines on coloured paper, each in its own size, ink and place: uint8 [128, 128, 3].

    `is_large`: as large as the paper allows, and never slanted.
    """
    paper = rng.choice(PAPERS)
    picture = Picture.new("RGB", (SIDE_PX, SIDE_PX), paper)
    pen = ImageDraw.Draw(picture)
    band_px = SIDE_PX // len(lines)
    for row, line in enumerate(lines):
        size_px = LARGEST_PX if is_large else rng.randint(17, 40 if len(lines) == 1 else 30)
        left, top, right, bottom = pen.textbbox((0, 0), line, font=font(size_px))
        while (right - left > SIDE_PX - 10 or bottom - top > band_px - 6) and size_px > 10:
            size_px -= 1 if is_large else 2
            left, top, right, bottom = pen.textbbox((0, 0), line, font=font(size_px))
        x = rng.randint(4, max(4, int(SIDE_PX - 4 - (right - left)))) - left
        y = rng.randint(3, max(3, int(band_px - 3 - (bottom - top)))) + row * band_px - top
        pen.text((x, y), line, font=font(size_px), fill=rng.choice(tuple(INKS.values())))
    if not is_large and rng.random() < 0.25:
        picture = picture.rotate(rng.uniform(-6, 6), Picture.Resampling.BILINEAR, fillcolor=paper)
    return np.asarray(picture)


def text_reading(draw: Draw) -> Example:
    """A picture of one to three written words or numbers, top to bottom, to read out."""
    return _reading(draw, draw_lines(draw.rng, _script(draw), draw.wants_unseen(), draw.is_train))


def large_text(draw: Draw) -> Example:
    """A picture of one word or number that fills its width: letters are learned sooner from these."""
    lines = draw_lines(draw.rng, _script(draw), draw.wants_unseen(), draw.is_train)
    return _reading(draw, lines[:1], is_large=True)


def _script(draw: Draw) -> str:
    return draw.language if draw.language in WORDS else "en"


def _reading(draw: Draw, lines: list[str], *, is_large: bool = False) -> Example:
    asked = [Asked(draw.pick(QUESTIONS[draw.language]), " ".join(lines), "read")]
    held_out = {word.casefold() for word in paintable(_script(draw), True)}
    tags = ("unseen_word",) if any(line.casefold() in held_out for line in lines) else ()
    picture = Image.from_pixels(paint(lines, draw.rng, is_large=is_large))
    return quiz(draw, [picture], asked, meta={"lines": lines}, tags=tags)


TASKS: dict[str, Maker] = {"text_reading": text_reading, "large_text": large_text}
