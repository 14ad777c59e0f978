"""Noun phrases and captions in six languages, correctly inflected, and captions read back.

before -> after: ("fr", a large red star at the top left) -> "une grande étoile rouge en haut à gauche"
"""

import re
from collections.abc import Callable, Sequence
from functools import cache

from castor.diorama.lexicon import ADJECTIVES, AND, FULL_STOP, NOUNS, PLACE_WORDS, RELATION_PATTERNS
from castor.diorama.scene import COLOURS, PLACES, SHAPES, SIZES, Thing, in_reading_order

# a: indefinite subject; a_to: object; a_of: after a relation word; the, the_to, the_of likewise;
# many: plural, many_of: plural after "how many"
FORMS = ("a", "a_to", "a_of", "the", "the_to", "the_of", "many", "many_of")


def noun_phrase(language: str, thing: Thing, form: str = "a") -> str:
    """A thing in words; attributes that are "" are left out, shape "" gives the general noun."""
    assert form in FORMS, form
    return _PHRASES[language](thing, form)


def join(language: str, items: Sequence[str]) -> str:
    """ "X, Y and Z"."""
    comma = "，" if language == "zh" else ", "
    return items[0] if len(items) == 1 else comma.join(items[:-1]) + AND[language] + items[-1]


def sentence(language: str, text: str) -> str:
    """With a capital and a full stop."""
    return text[0].upper() + text[1:] + FULL_STOP[language]


def placed(language: str, thing: Thing, form: str = "a") -> str:
    """ "a large red circle at the top left"."""
    phrase, place = noun_phrase(language, thing, form), PLACE_WORDS[language][thing.place][1]
    if language == "zh":
        return f"{place}有{phrase}"
    return f"{place} {phrase}" if language == "hi" else f"{phrase} {place}"


def caption(language: str, things: Sequence[Thing], *, numbered: bool = False) -> str:
    """The canonical sentence: every thing with size, colour, shape and place, in reading order.

    `numbered`: "A red star at the top (1) and a blue star on the left (2).".
    """
    items = [placed(language, thing) for thing in in_reading_order(list(things))]
    if numbered:
        items = [f"{item} ({number})" for number, item in enumerate(items, 1)]
    listed = join(language, items)
    verb = (" है" if len(things) == 1 else " हैं") if language == "hi" else ""
    return sentence(language, listed + verb)


def relation_phrase(language: str, relation: str, thing: Thing, definite: bool = True) -> str:
    """ "left of the red circle"."""
    words = RELATION_PATTERNS[language][relation].format(noun_phrase(language, thing, "the_of" if definite else "a_of"))
    return words.replace("von dem ", "vom ") if language == "de" else words


def answer_word(language: str, value: str) -> str:
    """A colour or size as a one-word answer."""
    return ADJECTIVES[language][value][0]


def shape_word(language: str, shape: str) -> str:
    """A shape as a one-word answer."""
    return NOUNS[language][shape][0]


def _en(thing: Thing, form: str) -> str:
    is_many = form.startswith("many")
    noun = NOUNS["en"][thing.shape][1 if is_many else 0]
    words = " ".join(w for w in (thing.size, thing.colour, noun) if w)
    if is_many:
        return words
    if form.startswith("the"):
        return f"the {words}"
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _zh(thing: Thing, form: str) -> str:
    colour = ADJECTIVES["zh"][thing.colour][0] + "的" if thing.colour else ""
    size = ADJECTIVES["zh"][thing.size][0] if thing.size else ""
    words = colour + size + NOUNS["zh"][thing.shape][0]
    return f"一个{words}" if form.startswith("a") else words


def _romance(language: str, thing: Thing, is_many: bool) -> tuple[str, str, str, str]:
    """(noun, colour, size, gender), inflected."""
    noun = NOUNS[language][thing.shape]
    index = (1 if noun[2] == "f" else 0) + (2 if is_many else 0)
    colour = ADJECTIVES[language][thing.colour][index] if thing.colour else ""
    size = ADJECTIVES[language][thing.size][index] if thing.size else ""
    return noun[1 if is_many else 0], colour, size, noun[2]


def _es(thing: Thing, form: str) -> str:
    is_many = form.startswith("many")
    noun, colour, size, gender = _romance("es", thing, is_many)
    words = " ".join(w for w in (noun, colour, size) if w)
    if is_many:
        return words
    article = {"a": ("un", "una"), "the": ("el", "la")}[form.split("_")[0]][gender == "f"]
    if not form.endswith("_of"):
        return f"{article} {words}"
    return f"del {words}" if article == "el" else f"de {article} {words}"


def _fr(thing: Thing, form: str) -> str:
    is_many = form.startswith("many")
    noun, colour, size, gender = _romance("fr", thing, is_many)
    words = " ".join(w for w in (size, noun, colour) if w)
    is_vowel = words[0] in "éo"
    if form == "many":
        return words
    if form == "many_of":
        return f"d'{words}" if is_vowel else f"de {words}"
    if form.startswith("a"):
        article = "une" if gender == "f" else "un"
        return f"d'{article} {words}" if form == "a_of" else f"{article} {words}"
    if is_vowel:
        return f"de l'{words}" if form == "the_of" else f"l'{words}"
    article = "la" if gender == "f" else "le"
    if form == "the_of":
        return f"de la {words}" if gender == "f" else f"du {words}"
    return f"{article} {words}"


# form -> gender -> (article, adjective ending)
_GERMAN = {
    "a": {"m": ("ein", "er"), "n": ("ein", "es"), "f": ("eine", "e")},
    "a_to": {"m": ("einen", "en"), "n": ("ein", "es"), "f": ("eine", "e")},
    "a_of": {"m": ("einem", "en"), "n": ("einem", "en"), "f": ("einer", "en")},
    "the": {"m": ("der", "e"), "n": ("das", "e"), "f": ("die", "e")},
    "the_to": {"m": ("den", "en"), "n": ("das", "e"), "f": ("die", "e")},
    "the_of": {"m": ("dem", "en"), "n": ("dem", "en"), "f": ("der", "en")},
}


def _de(thing: Thing, form: str) -> str:
    one, many, gender = NOUNS["de"][thing.shape]
    is_many = form.startswith("many")
    article, ending = ("", "e") if is_many else _GERMAN[form][gender]
    adjectives = [
        fixed or stem + ending
        for stem, fixed in (ADJECTIVES["de"][value] for value in (thing.size, thing.colour) if value)
    ]
    noun = many if is_many else one
    if thing.shape == "heart" and form in ("a_of", "the_of"):
        noun = "Herzen"
    return " ".join(w for w in (article, *adjectives, noun) if w)


def _hi(thing: Thing, form: str) -> str:
    one, many, gender = NOUNS["hi"][thing.shape]
    is_oblique, is_many = form.endswith("_of") and not form.startswith("many"), form.startswith("many")
    index = 1 if gender == "f" else 2 if is_oblique or is_many else 0
    adjectives = [ADJECTIVES["hi"][value][index] for value in (thing.size, thing.colour) if value]
    noun = many if is_many or (is_oblique and gender == "m") else one
    return " ".join((["एक"] if form.startswith("a") else []) + adjectives + [noun])


_PHRASES: dict[str, Callable[[Thing, str], str]] = {
    "en": _en, "zh": _zh, "es": _es, "fr": _fr, "de": _de, "hi": _hi,
}  # fmt: skip


# ---- reading captions back


@cache
def _surface_forms(language: str) -> dict[str, tuple[tuple[str, str], ...]]:
    """Attribute -> (surface form, value) of every inflected form, longest first."""
    gap = "" if language == "zh" else " "
    forms: dict[str, set[tuple[str, str]]] = {"shape": set(), "colour": set(), "size": set(), "place": set()}
    for shape in SHAPES:
        for form in FORMS:
            last = noun_phrase(language, Thing(shape, "", ""), form).split(" ")[-1]
            bare = last.split("'")[-1].removeprefix("一个")
            forms["shape"].add((bare, shape))
    for attribute, values in (("colour", COLOURS), ("size", SIZES)):
        for value in values:
            words = ADJECTIVES[language][value]
            if language == "de":
                words = tuple(words[0] + ending for ending in ("", "e", "er", "es", "en"))
            forms[attribute] |= {(word, value) for word in words if word}
    for place in PLACES:
        forms["place"] |= {(word, place) for word in PLACE_WORDS[language][place]}
    return {
        attribute: tuple(
            (gap + word.lower() + gap, value) for word, value in sorted(pairs, key=lambda pair: (-len(pair[0]), pair))
        )
        for attribute, pairs in forms.items()
    }


def parse_caption(text: str, language: str) -> list[Thing]:
    """The things that a caption names, in its order; what it does not say of a thing is "".

    Reads any list of "size colour shape place" phrases between commas and "and"; a part that names no shape,
    colour or size is passed over.
    """
    chunks = re.split(r"[,，、.。।;；:：!?？¿]", text.lower().replace("'", " ").replace("’", " "))
    if AND[language].strip() != "，":
        chunks = [part for chunk in chunks for part in f" {chunk} ".split(AND[language])]
    things = []
    for chunk in chunks:
        found = {}
        padded = chunk if language == "zh" else " " + " ".join(chunk.split()) + " "
        for attribute, forms in _surface_forms(language).items():
            found[attribute] = next((value for word, value in forms if word in padded), "")
        if found["shape"] or found["colour"] or found["size"]:
            thing = Thing(found["shape"], found["colour"], found["size"])
            things.append(thing.at(found["place"]) if found["place"] else thing)
    return things
