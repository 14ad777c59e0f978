"""Short clips in which things move along lanes of their own, with questions, captions and sounds of impact.

A clip lasts two seconds. Every thing keeps to its row (or every thing to its column): nothing ever collides.
"""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from castor.content import Video
from castor.diorama.draw import Draw, Event, Maker
from castor.diorama.lexicon import DIRECTION_WORDS, PLACE_WORDS
from castor.diorama.phrases import say
from castor.diorama.questions import Question, fields_of
from castor.diorama.quiz import Asked, quiz
from castor.diorama.render import FRAME_PX, render_things
from castor.diorama.scene import GROUNDS, PLACES, RADIUS, UNSEEN_TAG, Thing, random_kind
from castor.diorama.words import join, noun_phrase, sentence
from castor.example import Example

NUM_FRAMES = 16
FPS = 8.0
DURATION_S = NUM_FRAMES / FPS
SOUND_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Track:
    """A thing and where it is: straight between the knots, at rest before the first and after the last."""

    thing: Thing
    times_s: tuple[float, ...]
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    num_bounces: int = 0

    @property
    def moves(self) -> bool:
        """Whether it ever leaves its place."""
        return len(self.times_s) > 1

    @property
    def direction(self) -> str:
        """right, left, up or down, by the first leg; "" at rest."""
        if not self.moves:
            return ""
        if self.xs[1] != self.xs[0]:
            return "right" if self.xs[1] > self.xs[0] else "left"
        return "down" if self.ys[1] > self.ys[0] else "up"

    def at(self, time_s: float) -> Thing:
        """The thing where it is at a time."""
        x, y = (float(np.interp(time_s, self.times_s, along)) for along in (self.xs, self.ys))
        return dataclasses.replace(self.thing, x=x, y=y)

    @property
    def name(self) -> Thing:
        """The thing as it is called: colour and shape."""
        return Thing(self.thing.shape, self.thing.colour, "")


@dataclasses.dataclass(frozen=True)
class Footage:
    """What a clip shows, exactly; tracks in reading order of where they start."""

    tracks: tuple[Track, ...]
    events: tuple[Event, ...]
    ground: str = "white"

    @property
    def movers(self) -> tuple[Track, ...]:
        """The tracks that move."""
        return tuple(track for track in self.tracks if track.moves)

    def frames(self) -> np.ndarray:
        """uint8 [16, 64, 64, 3]."""
        return np.stack(
            [
                render_things([track.at(i / FPS) for track in self.tracks], self.ground, FRAME_PX)
                for i in range(NUM_FRAMES)
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """{"tracks", "events", ...}: the facts that a scorer needs."""
        return {
            "tracks": [{**dataclasses.asdict(track), "direction": track.direction} for track in self.tracks],
            "events": [dataclasses.asdict(event) for event in self.events],
            "ground": self.ground,
        }


def _knots(thing: Thing, cells: tuple[int, int], span_s: tuple[float, float]) -> tuple[list[float], list[float]]:
    """Times and positions along a lane from one cell to another; the outer cells end at the wall."""
    ends = (thing.radius + 0.01, 0.5, 1 - thing.radius - 0.01)
    return list(span_s), [(cells[0] + 0.5) / 3, ends[cells[1]]]


def _bouncing(rng: random.Random, thing: Thing, num_bounces: int) -> tuple[list[float], list[float]]:
    """Times and positions from the middle of a lane off its walls and back, at an even speed."""
    walls = [thing.radius + 0.01, 1 - thing.radius - 0.01]
    first = rng.randrange(2)
    along = [0.5, *(walls[(first + i) % 2] for i in range(num_bounces)), 0.5]
    if num_bounces == 0:
        along = [1 / 6 if first else 5 / 6, 0.5]
    lengths = np.abs(np.diff(along))
    end_s = rng.uniform(1.6, 1.8) if num_bounces > 1 else rng.uniform(1.2, 1.6)
    times_s = [0.05, *(0.05 + (end_s - 0.05) * np.cumsum(lengths) / lengths.sum())]
    return [round(float(t), 4) for t in times_s], along


def _names(rng: random.Random, num_things: int, unseen: bool) -> list[Thing]:
    """Things that differ in colour or shape, with a radius; the first an unseen combination if asked for."""
    kinds: list[Thing] = []
    while len(kinds) < num_things:
        kind = random_kind(rng, unseen=unseen and not kinds)
        if all(kind.colour != other.colour or kind.shape != other.shape for other in kinds):
            kinds.append(dataclasses.replace(kind, radius=RADIUS[kind.size]))
    return kinds


def random_footage(
    rng: random.Random,
    num_things: int,
    num_movers: int,
    unseen: bool = False,
    by_turns: bool = False,
    num_bounces: int | None = None,
) -> Footage:
    """Footage of things of which some move: at once, by turns, or (one mover) bouncing off the walls."""
    is_across = rng.random() < 0.5
    lanes = rng.sample(range(3), num_things)
    turns = rng.sample(range(num_movers), num_movers)
    tracks, events = [], []
    for i, thing in enumerate(_names(rng, num_things, unseen)):
        lane = (lanes[i] + 0.5) / 3
        if i >= num_movers:
            times_s, along = [0.0], [(rng.randrange(3) + 0.5) / 3]
        elif num_bounces is not None:
            times_s, along = _bouncing(rng, thing, num_bounces)
            events += [Event(time_s, "bounce") for time_s in times_s[1:-1]]
        else:
            start = rng.randrange(3)
            stop = rng.choice([cell for cell in range(3) if cell != start])
            span_s = (rng.uniform(0.05, 0.3), rng.uniform(1.2, 1.7))
            if by_turns:
                share_s = 1.85 / num_movers
                span_s = (turns[i] * share_s + 0.02, (turns[i] + 1) * share_s - 0.06)
            span_s = (round(span_s[0], 3), round(span_s[1], 3))
            times_s, along = _knots(thing, (start, stop), span_s)
            if stop != 1:
                events.append(Event(span_s[1], "hit"))
        across = [lane] * len(along)
        xs, ys = (along, across) if is_across else (across, along)
        tracks.append(Track(thing, tuple(times_s), tuple(xs), tuple(ys), num_bounces or 0))
    tracks.sort(key=lambda track: PLACES.index(track.at(0).place))
    events.sort(key=lambda event: event.time_s)
    return Footage(tuple(tracks), tuple(events), GROUNDS[rng.randrange(len(GROUNDS))])


def motion_sentence(rng: random.Random, language: str, tracks: tuple[Track, ...]) -> str:
    """ "The red circle moves right and the blue square stays still." """
    clauses = []
    for track in tracks:
        direction = DIRECTION_WORDS[language].get(track.direction, "")
        the = noun_phrase(language, track.name, "the")
        clause = say(rng, language, "go" if track.moves else "stay", the=the, direction=direction)
        clauses.append(clause if clause.startswith(the) else the + clause[len(the) :])
    return sentence(language, join(language, clauses))


def _question(rng: random.Random, language: str, footage: Footage, kind: str, track: Track) -> Question:
    """One question of a kind about a clip that suits it; `track` is the thing asked about, if any."""
    text = say(rng, language, kind, **fields_of(language, track.name))
    about = (track.thing,)
    if kind == "moves":
        answer = motion_sentence(rng, language, footage.movers)
    elif kind == "direction":
        answer = DIRECTION_WORDS[language][track.direction]
    elif kind == "num_moving":
        answer, about = str(len(footage.movers)), tuple(mover.thing for mover in footage.movers)
    elif kind == "ends":
        answer = PLACE_WORDS[language][track.at(DURATION_S).place][0]
    elif kind == "bounces":
        answer = str(track.num_bounces)
    elif kind in ("first", "last"):
        movers = sorted(footage.movers, key=lambda mover: mover.times_s[0])
        named = movers[0 if kind == "first" else -1]
        answer, about = noun_phrase(language, named.name, "the"), (named.thing,)
    else:
        assert kind == "video_caption", kind
        answer, about = motion_sentence(rng, language, footage.tracks), tuple(t.thing for t in footage.tracks)
    return Question(text, answer, kind, about)


def _clip_example(draw: Draw, footage: Footage, questions: list[Question]) -> Example:
    samples_S = None
    if footage.events and draw.rng.random() < SOUND_SHARE:
        samples_S = draw.sound_for(footage.events, DURATION_S)
    video = Video.from_frames(footage.frames(), FPS, samples_S)
    tags = ("sound_track",) if samples_S is not None else ()
    tags += (UNSEEN_TAG,) if questions[-1].is_unseen else ()
    asked = [Asked(question.question, question.answer, question.kind) for question in questions]
    return quiz(draw, [video], asked, meta={"footage": footage.to_json()}, tags=tags)


Plan = Callable[[random.Random], dict[str, Any]]
# kind -> weight, footage it needs, and the kinds that may be asked of that footage besides
PLANS: dict[str, tuple[float, Plan, tuple[str, ...]]] = {
    "moves": (
        0.3,
        lambda rng: {"num_things": rng.randint(1, 3), "num_movers": 1},
        ("direction", "num_moving", "ends"),
    ),
    "direction": (
        0.2,
        lambda rng: {"num_things": (n := rng.randint(1, 3)), "num_movers": rng.randint(1, min(2, n))},
        ("num_moving", "ends"),
    ),
    "num_moving": (0.12, lambda rng: {"num_things": 3, "num_movers": rng.randint(0, 3)}, ("num_moving",)),
    "ends": (
        0.15,
        lambda rng: {"num_things": (n := rng.randint(1, 3)), "num_movers": rng.randint(1, min(2, n))},
        ("direction", "num_moving"),
    ),
    "first": (
        0.07,
        lambda rng: {"num_things": rng.randint(2, 3), "num_movers": 2, "by_turns": True},
        ("last", "direction", "ends"),
    ),
    "last": (
        0.07,
        lambda rng: {"num_things": rng.randint(2, 3), "num_movers": 2, "by_turns": True},
        ("first", "direction", "ends"),
    ),
    "bounces": (
        0.09,
        lambda rng: {"num_things": rng.randint(1, 2), "num_movers": 1, "num_bounces": rng.randint(0, 3)},
        ("num_moving",),
    ),
}


def _mover(rng: random.Random, footage: Footage, unseen: bool) -> Track:
    """What to ask about: the unseen combination where there is one, else any mover, else any thing."""
    tracks = [track for track in footage.movers if track.thing.is_unseen or not unseen]
    tracks = tracks or list(footage.movers or footage.tracks)
    return tracks[rng.randrange(len(tracks))]


def video_question(draw: Draw) -> Example:
    """What moves and where to, direction, end, order, number of movers, number of bounces."""
    rng, unseen = draw.rng, draw.wants_unseen()
    kind = rng.choices(list(PLANS), weights=[plan[0] for plan in PLANS.values()])[0]
    footage = random_footage(rng, unseen=unseen, **PLANS[kind][1](rng))
    questions = {kind: _question(rng, draw.language, footage, kind, _mover(rng, footage, unseen))}
    for _ in range(draw.num_turns() - 1):
        other = draw.pick(PLANS[kind][2])
        mover = _mover(rng, footage, unseen)
        questions.setdefault(other, _question(rng, draw.language, footage, other, mover))
    return _clip_example(draw, footage, list(questions.values()))


def video_caption(draw: Draw) -> Example:
    """One sentence that says of every thing how it moves; in training followed by questions."""
    rng, unseen = draw.rng, draw.wants_unseen()
    num_things = rng.randint(1, 3)
    footage = random_footage(rng, num_things, rng.randint(1, num_things), unseen)
    kinds = ["video_caption"]
    if draw.is_train:
        kinds += rng.sample(("direction", "ends", "num_moving"), rng.randint(0, 2))
    questions = [_question(rng, draw.language, footage, k, _mover(rng, footage, unseen)) for k in kinds]
    return _clip_example(draw, footage, questions)


TASKS: dict[str, Maker] = {"video_question": video_question, "video_caption": video_caption}
