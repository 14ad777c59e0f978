"""Pairs of the small world for vectors: the same scene, film, series of sounds, saying or program in two forms.

Each pair has one hard negative: a target that differs from the right one in one attribute. Keys are meanings, so that
one scene in two languages, or painted twice, counts as the same. Leaves out tasks with an answer.
"""

import dataclasses
import random
from collections.abc import Callable

from castor.content import Audio, Message, Part, Video
from castor.diorama.code import changed_program, random_program
from castor.diorama.draw import LANGUAGES, Draw, draw_for
from castor.diorama.drawing import in_colour
from castor.diorama.phrases import say
from castor.diorama.questions import fields_of
from castor.diorama.saying import KINDS, Saying, draw_saying, transcript
from castor.diorama.scene import (
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    UNSEEN_TAG,
    Scene,
    Thing,
    in_reading_order,
    random_scene,
    settle,
)
from castor.diorama.sound import NAMES, SOUNDS, play
from castor.diorama.spoken import UNSEEN_VOICE_TAG, require_speech, speak
from castor.diorama.video import FPS, Footage, Track, motion_sentence, random_footage
from castor.diorama.visual import picture_of
from castor.diorama.words import caption
from castor.example import Pair

ATTRIBUTES = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "place": PLACES}
SAID = tuple(kind for kind in KINDS if kind not in ("word", "number"))
Maker = Callable[[Draw], Pair]


def scene_key(scene: Scene) -> str:
    """Equal for scenes of which a caption says the same."""
    return ";".join(f"{t.size} {t.colour} {t.shape} {t.place}" for t in in_reading_order(list(scene.things)))


def _allowed(draw: Draw, thing: Thing) -> bool:
    """Training never shows some combinations, not even as what is wrong."""
    return not (draw.is_train and thing.is_unseen)


def other_scene(draw: Draw, scene: Scene) -> Scene:
    """The scene with one attribute of one thing changed."""
    rng = draw.rng
    while True:
        things = list(scene.things)
        at, name = rng.randrange(len(things)), rng.choice(tuple(ATTRIBUTES))
        free = [place for place in PLACES if place not in {thing.place for thing in things}]
        value = rng.choice(free if name == "place" else ATTRIBUTES[name])
        old = things[at]
        new = old.at(value) if name == "place" else dataclasses.replace(old, **{name: value}).at(old.place)
        if new == old.at(old.place) or not _allowed(draw, new):
            continue
        kinds = [thing.at(thing.place) for thing in (*things[:at], new, *things[at + 1 :])]
        if len({(thing.colour, thing.shape) for thing in kinds}) == len(kinds):
            return Scene(in_reading_order(settle(rng, kinds)), scene.ground)


def _scene(draw: Draw, most: int) -> tuple[Scene, tuple[str, ...]]:
    unseen = draw.wants_unseen()
    return random_scene(draw.rng, draw.rng.randint(1, most), unseen), (UNSEEN_TAG,) if unseen else ()


Side = Part | str


def _pair(draw: Draw, query: Side, target: Side, negative: Side, key: str, tags: tuple[str, ...] = ()) -> Pair:
    return Pair(
        query=Message.user(query), target=Message.user(target), negative=Message.user(negative), source=draw.task,
        query_key=key, target_key=key, language=draw.language, tags=tags,
    )  # fmt: skip


def image_text(draw: Draw) -> Pair:
    """A picture and its caption."""
    scene, tags = _scene(draw, 4)
    wrong = caption(draw.language, other_scene(draw, scene).things)
    return _pair(draw, picture_of(scene), caption(draw.language, scene.things), wrong, scene_key(scene), tags)


def text_image(draw: Draw) -> Pair:
    """A caption and its picture."""
    scene, tags = _scene(draw, 4)
    wrong = picture_of(other_scene(draw, scene))
    return _pair(draw, caption(draw.language, scene.things), picture_of(scene), wrong, scene_key(scene), tags)


def _film(footage: Footage, draw: Draw) -> Video:
    sound_S = draw.sound_for(footage.events, len(footage.frames()) / FPS) if footage.events else None
    return Video.from_frames(footage.frames(), FPS, sound_S if draw.rng.random() < 0.3 else None)


def _footage_key(footage: Footage) -> str:
    return ";".join(sorted(f"{t.name.colour} {t.name.shape} {t.direction}" for t in footage.tracks))


def other_footage(draw: Draw, footage: Footage) -> Footage:
    """The film with one thing in another colour or shape, or one that moves the other way."""
    rng = draw.rng
    while True:
        tracks = list(footage.tracks)
        at = rng.randrange(len(tracks))
        old = tracks[at]
        if old.moves and rng.random() < 0.5:
            new = dataclasses.replace(old, xs=old.xs[::-1], ys=old.ys[::-1])
        else:
            name = rng.choice(("colour", "shape"))
            thing = dataclasses.replace(old.thing, **{name: rng.choice(ATTRIBUTES[name])})
            new = dataclasses.replace(old, thing=thing)
        made = dataclasses.replace(footage, tracks=(*tracks[:at], new, *tracks[at + 1 :]), events=())
        if _footage_key(made) != _footage_key(footage) and _allowed(draw, new.thing):
            return made


def _clip(draw: Draw) -> tuple[Footage, tuple[str, ...]]:
    unseen, num_things = draw.wants_unseen(), draw.rng.randint(1, 3)
    footage = random_footage(draw.rng, num_things, draw.rng.randint(1, num_things), unseen)
    return footage, (UNSEEN_TAG,) if unseen else ()


def _told(draw: Draw, footage: Footage) -> str:
    tracks: tuple[Track, ...] = footage.tracks
    return motion_sentence(draw.rng, draw.language, tracks)


def video_text(draw: Draw) -> Pair:
    """A film and a sentence of what moves where."""
    footage, tags = _clip(draw)
    wrong = _told(draw, other_footage(draw, footage))
    return _pair(draw, _film(footage, draw), _told(draw, footage), wrong, _footage_key(footage), tags)


def text_video(draw: Draw) -> Pair:
    """A sentence of what moves where, and the film."""
    footage, tags = _clip(draw)
    wrong = _film(other_footage(draw, footage), draw)
    return _pair(draw, _told(draw, footage), _film(footage, draw), wrong, _footage_key(footage), tags)


def _series(draw: Draw) -> tuple[list[str], list[str]]:
    """Two to four sounds, and the same with one changed or two that change places."""
    rng = draw.rng
    kinds = rng.sample(tuple(SOUNDS), rng.randint(2, 4))
    wrong, at = list(kinds), rng.randrange(len(kinds))
    if rng.random() < 0.5:
        wrong[at] = rng.choice([kind for kind in SOUNDS if kind not in kinds])
    else:
        wrong[at - 1], wrong[at] = wrong[at], wrong[at - 1]
    return kinds, wrong


def _heard(rng: random.Random, kinds: list[str]) -> Audio:
    return Audio.from_samples(play(kinds, rng)[0], 16_000)


def _named(draw: Draw, kinds: list[str]) -> str:
    return ", ".join(NAMES[draw.language][kind] for kind in kinds)


def audio_text(draw: Draw) -> Pair:
    """A series of sounds and their names in order."""
    kinds, wrong = _series(draw)
    return _pair(draw, _heard(draw.rng, kinds), _named(draw, kinds), _named(draw, wrong), ",".join(kinds))


def text_audio(draw: Draw) -> Pair:
    """Names of sounds in order, and the series."""
    kinds, wrong = _series(draw)
    return _pair(draw, _named(draw, kinds), _heard(draw.rng, kinds), _heard(draw.rng, wrong), ",".join(kinds))


def speech_image(draw: Draw) -> Pair:
    """A caption that is spoken, and the picture: no text is in between."""
    require_speech(draw)
    scene, tags = _scene(draw, 2)
    spoken, _, is_new = speak(draw, caption(draw.language, scene.things))
    tags += (UNSEEN_VOICE_TAG,) if is_new else ()
    return _pair(draw, spoken, picture_of(scene), picture_of(other_scene(draw, scene)), scene_key(scene), tags)


def _other_saying(draw: Draw, saying: Saying) -> Saying:
    """Another saying of the same sort."""
    while True:
        other = draw_saying(draw.rng, saying.kind)
        if other.text("en") != saying.text("en") and not (draw.is_train and other.is_unseen):
            return other


def _saying(draw: Draw) -> tuple[Saying, tuple[str, ...]]:
    saying = draw_saying(draw.rng, draw.pick(SAID), draw.wants_unseen())
    return saying, (UNSEEN_TAG,) if saying.is_unseen else ()


def speech_text(draw: Draw) -> Pair:
    """Something said, and its words."""
    require_speech(draw)
    saying, tags = _saying(draw)
    said, wrong = saying.text(draw.language), _other_saying(draw, saying).text(draw.language)
    spoken, _, is_new = speak(draw, said)
    tags += (UNSEEN_VOICE_TAG,) if is_new else ()
    right, wrong = (transcript(text, draw.language) for text in (said, wrong))
    return _pair(draw, spoken, right, wrong, f"{saying.kind} {saying.text('en')}", tags)


def composed(draw: Draw) -> Pair:
    """ "This picture, but blue": a picture with a change in words, and the picture that comes of it."""
    rng, language = draw.rng, draw.language
    while True:
        scene, _ = _scene(draw, 3)
        at, name = rng.randrange(len(scene.things)), rng.choice(("colour", "colour", "size", "shape"))
        old = scene.things[at]
        new = dataclasses.replace(old, **{name: rng.choice(ATTRIBUTES[name])}).at(old.place)
        if name == "colour":
            is_one = len(scene.things) > 1
            named = [t for t in scene.things if t.shape == old.shape]
        else:
            is_one, named = False, [t for t in scene.things]
        kinds = [new if i == at else thing.at(thing.place) for i, thing in enumerate(scene.things)]
        if getattr(new, name) != getattr(old, name) and len(named) == 1 and _allowed(draw, new):
            break
    phrase = {"size": f"resize_{new.size}", "shape": "reshape"}.get(name, "recolour_one" if is_one else "recolour")
    fields = fields_of(language, Thing(old.shape, "", "") if is_one else new)
    text = say(rng, language, phrase, **{**fields, "in_colour": in_colour(language, new.colour)})
    after = Scene(in_reading_order(settle(rng, kinds)), scene.ground)
    wrong = scene if rng.random() < 0.5 else other_scene(draw, after)
    while scene_key(wrong) == scene_key(after):
        wrong = other_scene(draw, after)
    tags = (UNSEEN_TAG,) if new.is_unseen else ()
    pair = _pair(draw, text, picture_of(after), picture_of(wrong), scene_key(after), tags)
    key = f"{scene_key(scene)} > {scene_key(after)}"
    return dataclasses.replace(pair, query=Message.user(picture_of(scene), text), query_key=key)


def translated(draw: Draw) -> Pair:
    """A saying or a caption in two languages."""
    other = draw.pick([language for language in LANGUAGES if language != draw.language])
    if draw.rng.random() < 0.5:
        scene, tags = _scene(draw, 3)
        wrong, key = other_scene(draw, scene), scene_key(scene)
        texts = (caption(draw.language, scene.things), caption(other, scene.things), caption(other, wrong.things))
    else:
        saying, tags = _saying(draw)
        key = f"{saying.kind} {saying.text('en')}"
        texts = (saying.text(draw.language), saying.text(other), _other_saying(draw, saying).text(other))
    pair = _pair(draw, *texts, key, tags)
    return dataclasses.replace(pair, query_task="BitextMining", target_task="BitextMining")


def docstring_code(draw: Draw) -> Pair:
    """What a function does, and the function."""
    program = random_program(draw.rng)
    wrong = changed_program(draw.rng, program)
    pair = _pair(draw, program.text(), program.code(draw.rng), wrong.code(draw.rng), program.key)
    return dataclasses.replace(pair, query_task="InstructionRetrieval", target_task="Retrieval-document", language="en")


PAIRS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        image_text, text_image, video_text, text_video, audio_text, text_audio, speech_image, speech_text, composed,
        translated, docstring_code,
    )
}  # fmt: skip
NEEDS_SPEECH_PAIRS = frozenset({"speech_image", "speech_text"})


@dataclasses.dataclass(frozen=True)
class WorldPairs:
    """Endless pairs of one kind; pair `index` is a pure function of (seed, split, name, index)."""

    name: str
    seed: int = 0
    split: str = "train"

    def at(self, index: int) -> Pair:
        """Pair number `index`."""
        return PAIRS[self.name](draw_for(self.seed, self.split, self.name, index))

    def pair(self, rng: random.Random) -> Pair:
        """One of 2^40."""
        return self.at(rng.getrandbits(40))
