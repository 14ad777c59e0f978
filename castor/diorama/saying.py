"""Sayings: short meanings about the small world that can be put into words in any of the six languages.

They are what is spoken in `spoken.py` and translated in `translation.py`.
"""

import random
from dataclasses import dataclass

from castor.diorama.arithmetic import NUMBER_WORDS
from castor.diorama.lexicon import FULL_STOP
from castor.diorama.scene import COLOURS, RELATIONS, SHAPES, Thing, random_kind
from castor.diorama.words import answer_word, caption, noun_phrase, relation_phrase, sentence, shape_word

KINDS = ("word", "number", "phrase", "there", "placed", "relation", "command")

THERE = {
    "en": "there are {}",
    "zh": "有{}",
    "es": "hay {}",
    "fr": "il y a {}",
    "de": "es gibt {}",
    "hi": "{} हैं",
}
IS_AT = {
    "en": "{} is {}",
    "zh": "{}在{}",
    "es": "{} está {}",
    "fr": "{} est {}",
    "de": "{} ist {}",
    "hi": "{} {} है",
}
DRAW = {
    "en": "draw {}",
    "zh": "画{}",
    "es": "dibuja {}",
    "fr": "dessine {}",
    "de": "zeichne {}",
    "hi": "{} बनाओ",
}


@dataclass(frozen=True)
class Saying:
    """A meaning: its sort, the things in it, a count and a relation where the sort has them."""

    kind: str
    things: tuple[Thing, ...] = ()
    number: int = 0
    word: str = ""  # a colour, a shape, or the relation of the first thing to the second

    def text(self, language: str) -> str:
        """The meaning in a language: a bare word or phrase, or a sentence with capital and full stop.

        before -> after: Saying("there", (red circle,), 3).text("es") -> "Hay tres círculos rojos."
        """
        if self.kind == "word":
            return answer_word(language, self.word) if self.word in COLOURS else shape_word(language, self.word)
        if self.kind == "number":
            return NUMBER_WORDS[language][self.number]
        if self.kind == "phrase":
            return noun_phrase(language, self.things[0])
        if self.kind == "placed":
            return caption(language, self.things)
        if self.kind == "there":
            return sentence(language, THERE[language].format(counted(language, self.number, self.things[0])))
        if self.kind == "command":
            return sentence(language, DRAW[language].format(noun_phrase(language, self.things[0], "a_to")))
        assert self.kind == "relation", self.kind
        first = noun_phrase(language, self.things[0], "the")
        return sentence(language, IS_AT[language].format(first, relation_phrase(language, self.word, self.things[1])))

    @property
    def is_unseen(self) -> bool:
        """Whether it names a combination that training never shows."""
        return any(thing.is_unseen for thing in self.things)


def counted(language: str, number: int, thing: Thing) -> str:
    """ "three red circles"; the number is two or more."""
    if language == "zh":
        return ("两" if number == 2 else NUMBER_WORDS["zh"][number]) + "个" + noun_phrase("zh", thing, "many")
    return f"{NUMBER_WORDS[language][number]} {noun_phrase(language, thing, 'many')}"


def draw_saying(rng: random.Random, kind: str, unseen: bool = False) -> Saying:
    """A random saying of a sort; with `unseen`, its things are a combination that training never shows."""
    if kind == "word":
        return Saying(kind, word=rng.choice(COLOURS + SHAPES))
    if kind == "number":
        return Saying(kind, number=rng.randint(0, 20))
    thing = random_kind(rng, unseen=unseen)
    if kind == "placed":
        return Saying(kind, (thing.at(rng.choice(("top", "bottom", "left", "right", "center"))),))
    if kind == "relation":
        other = random_kind(rng)
        while (other.colour, other.shape) == (thing.colour, thing.shape):
            other = random_kind(rng)
        pair = (Thing(thing.shape, thing.colour, ""), Thing(other.shape, other.colour, ""))
        return Saying(kind, pair, word=rng.choice(RELATIONS))
    if kind == "there":
        return Saying(kind, (Thing(thing.shape, thing.colour, ""),), number=rng.randint(2, 9))
    if kind == "phrase" and not unseen and rng.random() < 0.5:
        return Saying(kind, (Thing(thing.shape, thing.colour, ""),))
    return Saying(kind, (thing,))


def transcript(text: str, language: str) -> str:
    """What is written down of a spoken text: lower case, no punctuation.  "Draw a star." -> "draw a star"

    Apostrophes and hyphens inside words stay.
    """
    for mark in (FULL_STOP[language], *".,;:?!¿¡。，？！।"):
        text = text.replace(mark, " " if language != "zh" else "")
    return " ".join(text.lower().split())
