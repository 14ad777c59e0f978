"""Questions about a scene with their exact answers: what can be asked, and how it is put in words."""

import dataclasses
import random
from collections.abc import Callable

from castor.diorama.lexicon import PLACE_WORDS, RELATION_ANSWERS, YES_NO
from castor.diorama.phrases import say
from castor.diorama.scene import (
    COLOURS,
    RELATIONS,
    SHAPES,
    UNSEEN_COLOUR_SHAPE,
    Scene,
    Thing,
    holds,
    random_kind,
)
from castor.diorama.words import FORMS, answer_word, caption, noun_phrase, relation_phrase, shape_word


@dataclasses.dataclass(frozen=True)
class Question:
    """A question in words, its answer, and the things it is about."""

    question: str
    answer: str
    kind: str
    about: tuple[Thing, ...] = ()
    final: str = ""  # what worked steps end in, where the answer has steps

    @property
    def is_unseen(self) -> bool:
        """Whether it is about a combination that training never shows."""
        return any(thing.is_unseen for thing in self.about)


def fields_of(language: str, thing: Thing) -> dict[str, str]:
    """Every form of a noun phrase, and "how many" in agreement with it."""
    fields = {form: noun_phrase(language, thing, form) for form in FORMS}
    is_feminine = thing.shape in ("", "star", "cross") if language == "es" else thing.shape == ""
    how_many = {"es": ("cuántos", "cuántas"), "hi": ("कितने", "कितनी")}.get(language, ("", ""))[is_feminine]
    return {**fields, "how_many": how_many[:1].upper() + how_many[1:]}


def name_of(rng: random.Random, scene: Scene, thing: Thing, without: str = "") -> Thing | None:
    """The fewest attributes that single out a thing in its scene; None where `without` one there are none.

    Where shape or colour alone would do, the full name is still used now and then.
    """
    tries = [("shape",), ("colour",), ("shape", "colour"), ("shape", "size"), ("colour", "size")]
    if rng.random() < 0.4:
        tries = [("shape", "colour"), *tries]
    for keys in tries:
        if without in keys or (keys == ("colour",) and without != "shape"):
            continue
        if sum(all(getattr(o, k) == getattr(thing, k) for k in keys) for o in scene.things) == 1:
            return thing.only(keys)
    return None


Ask = Callable[[random.Random, str, Scene, Thing], Question | None]


def _colour(rng: random.Random, language: str, scene: Scene, thing: Thing) -> Question | None:
    answer = answer_word(language, thing.colour)
    name = name_of(rng, scene, thing, without="colour")
    if name is None or rng.random() < 0.35:
        text = say(rng, language, "colour_at", at=PLACE_WORDS[language][thing.place][1])
    else:
        text = say(rng, language, "colour", **fields_of(language, name))
    return Question(text, answer, "colour", (thing,))


def _shape(rng: random.Random, language: str, scene: Scene, thing: Thing) -> Question | None:
    answer = shape_word(language, thing.shape)
    name = name_of(rng, scene, thing, without="shape")
    if name is None or rng.random() < 0.5:
        text = say(rng, language, "shape_at", at=PLACE_WORDS[language][thing.place][1])
    elif name.size:
        return None
    else:
        colour = answer_word(language, thing.colour)
        text = say(rng, language, "shape_by_colour", colour=colour, **fields_of(language, name))
    return Question(text, answer, "shape", (thing,))


def _where(rng: random.Random, language: str, scene: Scene, thing: Thing) -> Question | None:
    name = name_of(rng, scene, thing)
    if name is None:
        return None
    text = say(rng, language, "where", **fields_of(language, name))
    return Question(text, PLACE_WORDS[language][thing.place][0], "where", (thing,))


def _beside(rng: random.Random, language: str, scene: Scene, thing: Thing) -> Question | None:
    name = name_of(rng, scene, thing)
    sides = []
    for relation in RELATIONS:
        those = [other for other in scene.things if other is not thing and holds(other, relation, thing)]
        if len(those) == 1:
            sides.append((relation, those[0]))
    if name is None or not sides:
        return None
    relation, other = sides[rng.randrange(len(sides))]
    text = say(rng, language, "beside", relation=relation_phrase(language, relation, name))
    return Question(text, shape_word(language, other.shape), "beside", (thing, other))


def _relation(rng: random.Random, language: str, scene: Scene, thing: Thing) -> Question | None:
    others = [other for other in scene.things if other is not thing]
    if not others:
        return None
    other = others[rng.randrange(len(others))]
    first, second = name_of(rng, scene, thing), name_of(rng, scene, other)
    answers = [relation for relation in RELATIONS if holds(thing, relation, other)]
    if first is None or second is None or not answers:
        return None
    answer = answers[rng.randrange(len(answers))]
    kind = "side" if answer in ("left", "right") else "height"
    of_second = noun_phrase(language, second, "the_of")
    if language == "de" and kind == "side":
        of_second = f"von {of_second}".replace("von dem ", "vom ")
    text = say(rng, language, kind, second=of_second, **fields_of(language, first))
    return Question(text, RELATION_ANSWERS[language][answer], "relation", (thing, other))


def _size(rng: random.Random, language: str, scene: Scene, thing: Thing) -> Question | None:
    name = name_of(rng, scene, thing, without="size")
    if name is None or not name.shape:
        return None
    text = say(rng, language, "size", **fields_of(language, name))
    return Question(text, answer_word(language, thing.size), "size", (thing,))


def _exists(rng: random.Random, language: str, scene: Scene, thing: Thing) -> Question | None:
    is_there = rng.random() < 0.5
    asked = Thing(thing.shape, thing.colour, "")
    if not is_there:  # change one attribute, so that the pieces are there and only the combination is not
        there = {(t.colour, t.shape) for t in scene.things}
        swaps = [(colour, thing.shape) for colour in COLOURS] + [(thing.colour, shape) for shape in SHAPES]
        swaps = [s for s in swaps if s not in there and (s in UNSEEN_COLOUR_SHAPE) == thing.is_unseen]
        if not swaps:
            return None
        colour, shape = swaps[rng.randrange(len(swaps))]
        asked = Thing(shape, colour, "")
    text = say(rng, language, "exists", **fields_of(language, asked))
    return Question(text, YES_NO[language][0 if is_there else 1], "exists", (thing, asked))


KINDS: dict[str, tuple[Ask, float]] = {
    "colour": (_colour, 0.24),
    "shape": (_shape, 0.22),
    "where": (_where, 0.20),
    "beside": (_beside, 0.10),
    "relation": (_relation, 0.07),
    "size": (_size, 0.07),
    "exists": (_exists, 0.10),
}


def ask(rng: random.Random, language: str, scene: Scene, focus: Thing | None = None) -> Question:
    """A question about a scene, or about `focus` in it: colour, shape, place, relation, size or yes/no."""
    makers = list(KINDS.values())
    while True:
        make = rng.choices([maker for maker, _ in makers], weights=[weight for _, weight in makers])[0]
        thing = focus or scene.things[rng.randrange(len(scene.things))]
        question = make(rng, language, scene, thing)
        if question is not None:
            return question


def matches(thing: Thing, wanted: Thing) -> bool:
    """Whether a thing has every attribute that `wanted` names."""
    keys = ("shape", "colour", "size")
    return all(getattr(wanted, key) in ("", getattr(thing, key)) for key in keys)


def ask_count(rng: random.Random, language: str, scene: Scene, wanted: Thing, worked: bool = True) -> Question:
    """How many things of the scene have the attributes that `wanted` names; "" stands for any.

    A `worked` answer names and numbers what counts: "A red star at the top (1) and a red cross on the left (2): 2".
    """
    counted = tuple(thing for thing in scene.things if matches(thing, wanted))
    text = say(rng, language, "count", **fields_of(language, wanted))
    number = str(len(counted))
    answer = f"{caption(language, counted, numbered=True)[:-1]}: {number}" if worked and counted else number
    return Question(text, answer, "count", counted, final=number)


def random_wanted(rng: random.Random, thing: Thing | None = None) -> Thing:
    """What to count: mostly a colour or a shape, now and then both, a size, or everything."""
    thing = thing or random_kind(rng)
    keys = rng.choices(
        [("colour",), ("shape",), ("colour", "shape"), ("size",), ()], weights=[0.4, 0.3, 0.12, 0.1, 0.08]
    )[0]
    return thing.only(keys)
