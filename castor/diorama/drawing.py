"""Tasks whose answer is a picture: drawing from words, and redrawing what a picture shows with one change."""

import dataclasses

from castor.content import Image, Message
from castor.diorama.draw import Draw, Maker
from castor.diorama.lexicon import ADJECTIVES
from castor.diorama.phrases import say
from castor.diorama.questions import fields_of
from castor.diorama.render import DRAWING_PX, render
from castor.diorama.scene import (
    COLOURS,
    GROUNDS,
    PLACES,
    SHAPES,
    SIZES,
    UNSEEN_TAG,
    Scene,
    Thing,
    in_reading_order,
    random_kind,
    settle,
)
from castor.diorama.visual import picture_of
from castor.diorama.words import caption, join, noun_phrase, placed, relation_phrase
from castor.example import Example

# relation -> where the two things are drawn
LAYOUT = {
    "left": ("left", "right"),
    "right": ("right", "left"),
    "above": ("top", "bottom"),
    "below": ("bottom", "top"),
}


def drawing_of(scene: Scene, side_px: int = DRAWING_PX) -> Image:
    """The square drawing of a scene on white, each thing exactly in the middle of its place.

    A request leaves open where in its place a thing stands. Left to chance, even half a pixel gives every edge other
    picture codes, and the wording is learned far later than the strokes.
    """
    return Image.from_pixels(render(dataclasses.replace(scene, ground="white"), side_px), name="drawing")


def _kinds(draw: Draw, num_things: int) -> list[Thing]:
    """Different things without places; the first an unseen combination now and then outside training."""
    kinds: list[Thing] = []
    unseen = draw.wants_unseen()
    while len(kinds) < num_things:
        kind = random_kind(draw.rng, unseen=unseen and not kinds)
        if all((kind.colour, kind.shape) != (other.colour, other.shape) for other in kinds):
            kinds.append(kind)
    return kinds


def drawing(draw: Draw) -> Example:
    """ "Draw a large red circle left of a small blue square." and lists of things with places.

    meta["scene"] holds what was asked (a place only where the request names it), meta["drawn"] the reference.
    """
    rng, language = draw.rng, draw.language
    form = rng.choices(("single", "relation", "places"), weights=(0.2, 0.45, 0.35))[0]
    if form == "single":
        kinds = _kinds(draw, 1)
        wanted, layout = Scene(tuple(kinds)), [kinds[0].at("center")]
        request = say(rng, language, "draw", what=noun_phrase(language, kinds[0], "a_to"))
    elif form == "relation":
        kinds = _kinds(draw, 2)
        rng.shuffle(kinds)
        relation = draw.pick(tuple(LAYOUT))
        wanted = Scene(tuple(kinds), relations=((0, relation, 1),))
        layout = [kind.at(place) for kind, place in zip(kinds, LAYOUT[relation], strict=True)]
        first, beside = (
            noun_phrase(language, kinds[0], "a_to"),
            relation_phrase(language, relation, kinds[1], False),
        )
        patterns = {"zh": f"{first}，在{beside}", "hi": f"{beside} {first}"}
        request = say(rng, language, "draw", what=patterns.get(language, f"{first} {beside}"))
    else:
        kinds = _kinds(draw, rng.randint(1, 3))
        places = rng.sample(PLACES, len(kinds))
        layout = list(in_reading_order([kind.at(place) for kind, place in zip(kinds, places, strict=True)]))
        wanted = Scene(tuple(layout))
        what = join(language, [placed(language, thing, "a_to") for thing in layout])
        request = say(rng, language, "draw_places", what=what)
    drawn = Scene(settle(rng, layout, jitter=0.0, vary=0.0))
    return Example(
        messages=(Message.user(request), Message.model(drawing_of(drawn, draw.drawing_px))),
        task=draw.task,
        language=language,
        tags=(form, *((UNSEEN_TAG,) if any(kind.is_unseen for kind in kinds) else ())),
        meta={"scene": wanted.to_json(), "drawn": drawn.to_json(), "request_kind": form},
    )


def in_colour(language: str, colour: str) -> str:
    """A colour after "draw it in"."""
    forms = ADJECTIVES[language][colour]
    if language == "de":
        return forms[0].capitalize()
    return forms[2] if language == "hi" else forms[0]


def _change(draw: Draw, attribute: str) -> tuple[Thing, Thing]:
    """A thing that training may show, and the same with one attribute changed."""
    unseen = draw.wants_unseen()
    values = {"colour": COLOURS, "size": SIZES, "shape": SHAPES}[attribute]
    while True:
        before = random_kind(draw.rng)
        changed = [dataclasses.replace(before, **{attribute: v}) for v in values if v != getattr(before, attribute)]
        changed = [thing for thing in changed if thing.is_unseen == unseen]
        if changed:
            return before, draw.pick(changed)


def interleaved(draw: Draw) -> Example:
    """A picture and a change to it ("Draw it in blue."): the answer is a picture, or text, picture, text."""
    rng, language = draw.rng, draw.language
    kind = rng.choices(
        ("recolour", "resize", "reshape", "recolour_one", "tell_and_recolour"),
        weights=(0.3, 0.15, 0.15, 0.15, 0.25),
    )[0]
    attribute = {"resize": "size", "reshape": "shape"}.get(kind, "colour")
    before, after = _change(draw, attribute)
    kinds = [before]
    while kind == "recolour_one" and len(kinds) < 2:
        other = random_kind(rng)
        if other.shape != before.shape:
            kinds.append(other)
    places = rng.sample(PLACES, len(kinds))
    shown = Scene(
        settle(rng, [thing.at(place) for thing, place in zip(kinds, places, strict=True)]),
        ground=draw.pick(GROUNDS),
    )
    wanted = Scene(in_reading_order([k.at(p) for k, p in zip([after, *kinds[1:]], places, strict=True)]))
    named = Thing(before.shape, "", "") if kind == "recolour_one" else after
    colour = in_colour(language, after.colour)
    fields = {
        **fields_of(language, named),
        "in_colour": colour,
        "colour": ADJECTIVES[language][after.colour][0],
    }
    request = say(rng, language, f"resize_{after.size}" if kind == "resize" else kind, **fields)
    drawn = Scene(settle(rng, list(wanted.things), jitter=0.0, vary=0.0))
    answer: list[Image | str] = [drawing_of(drawn, draw.drawing_px)]
    if kind == "tell_and_recolour":
        answer = [caption(language, shown.things), *answer, say(rng, language, "now", **fields)]
    picture = picture_of(Scene(in_reading_order(shown.things), shown.ground))
    return Example(
        messages=(Message.user(picture, request), Message.model(*answer)),
        task=draw.task,
        language=language,
        tags=(kind, *((UNSEEN_TAG,) if after.is_unseen else ())),
        meta={"scene": wanted.to_json(), "shown": shown.to_json(), "request_kind": kind},
    )


TASKS: dict[str, Maker] = {"drawing": drawing, "interleaved": interleaved}
