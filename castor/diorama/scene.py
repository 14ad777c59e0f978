"""What a picture shows, exactly: a few things with shape, colour, size and place on a plain ground.

Lengths are fractions of the picture's side (x to the right, y down): one scene can be drawn at any
resolution. Leaves out overlap, depth and texture: every thing can be read from its pixels alone.
"""

import dataclasses
import random
from collections.abc import Mapping
from typing import Any

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "black")
SIZES = ("small", "large")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
RELATIONS = ("left", "right", "above", "below")
GROUNDS = ("white", "grey", "cream", "sky", "mint")
RADIUS = {"small": 0.1, "large": 0.15}

# Combinations that training never shows; validation and test use them to measure generalisation. Six colours of shapes
# are held out in both sizes; two sizes of shapes in half of the colours, since nobody knows a size never seen at all.
UNSEEN_COLOUR_SHAPE = frozenset(
    {
        ("red", "star"),
        ("blue", "triangle"),
        ("green", "heart"),
        ("yellow", "cross"),
        ("purple", "circle"),
        ("orange", "square"),
    }
)
UNSEEN_SIZE_SHAPE = frozenset({("large", "triangle"), ("small", "cross")})
UNSEEN_SIZES_IN = frozenset({"red", "green", "purple", "black"})
UNSEEN_TAG = "unseen_combination"


@dataclasses.dataclass(frozen=True)
class Thing:
    """One object. An attribute not known (or not asked for) is ""; an unknown place has x = y = -1."""

    shape: str
    colour: str
    size: str
    x: float = -1.0
    y: float = -1.0
    radius: float = 0.0  # 0: the usual radius of its size

    @property
    def place(self) -> str:
        """The cell of the 3 x 3 grid that holds the centre, as one of PLACES; "" when unknown."""
        if self.x < 0 or self.y < 0:
            return ""
        return PLACES[min(2, int(self.y * 3)) * 3 + min(2, int(self.x * 3))]

    @property
    def is_unseen(self) -> bool:
        """Whether training never shows this combination."""
        by_colour = (self.colour, self.shape) in UNSEEN_COLOUR_SHAPE
        return by_colour or (self.colour in UNSEEN_SIZES_IN and (self.size, self.shape) in UNSEEN_SIZE_SHAPE)

    def only(self, keys: tuple[str, ...]) -> "Thing":
        """What is left of shape, colour and size when only `keys` are named."""
        shape, colour, size = (getattr(self, key) if key in keys else "" for key in ("shape", "colour", "size"))
        return Thing(shape, colour, size)

    def at(self, place: str) -> "Thing":
        """The same thing in the middle of a place."""
        x, y = middle_of(place)
        return dataclasses.replace(self, x=x, y=y)


@dataclasses.dataclass(frozen=True)
class Scene:
    """Things on a ground; `relations` (index, relation, index) are stated by a request instead of places."""

    things: tuple[Thing, ...]
    ground: str = "white"
    relations: tuple[tuple[int, str, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """{"ground", "things", "relations"}: the facts that a scorer needs."""
        return {
            "ground": self.ground,
            "things": [{**dataclasses.asdict(thing), "place": thing.place} for thing in self.things],
            "relations": [list(relation) for relation in self.relations],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Scene":
        """Inverse of `to_json`; a record without the needed keys raises ValueError."""
        try:
            things = tuple(
                Thing(t["shape"], t["colour"], t["size"], t["x"], t["y"], t.get("radius", 0.0))
                for t in record["things"]
            )
            relations = tuple((int(i), str(name), int(j)) for i, name, j in record.get("relations", ()))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a scene: {record!r}") from error
        return cls(things, record.get("ground", "white"), relations)


def middle_of(place: str) -> tuple[float, float]:
    """(x, y) of the middle of a place."""
    row, column = divmod(PLACES.index(place), 3)
    return (column + 0.5) / 3, (row + 0.5) / 3


def in_reading_order(things: tuple[Thing, ...] | list[Thing]) -> tuple[Thing, ...]:
    """Row by row, left to right, by the grid of places."""
    return tuple(sorted(things, key=lambda thing: PLACES.index(thing.place)))


def holds(first: Thing, relation: str, second: Thing) -> bool:
    """Whether `first` is left of, right of, above or below `second`, by the grid of places."""
    a_row, a_column = divmod(PLACES.index(first.place), 3)
    b_row, b_column = divmod(PLACES.index(second.place), 3)
    if relation == "left":
        return a_column < b_column
    if relation == "right":
        return a_column > b_column
    return a_row < b_row if relation == "above" else a_row > b_row


_KINDS = [Thing(shape, colour, size) for shape in SHAPES for colour in COLOURS for size in SIZES]
_SEEN = [kind for kind in _KINDS if not kind.is_unseen]
_UNSEEN = [kind for kind in _KINDS if kind.is_unseen]


def random_kind(rng: random.Random, unseen: bool = False, **wanted: str) -> Thing:
    """A thing without a place: one of the combinations training shows, or (unseen) one that it never does.

    `wanted` fixes attributes (shape="star"); where no combination fits, ValueError.
    """
    kinds = _UNSEEN if unseen else _SEEN
    if wanted:
        kinds = [kind for kind in kinds if all(getattr(kind, key) == value for key, value in wanted.items())]
    if not kinds:
        raise ValueError(f"no {'unseen' if unseen else 'seen'} combination has {wanted!r}")
    return kinds[rng.randrange(len(kinds))]


def settle(rng: random.Random, things: list[Thing], jitter: float = 0.05, vary: float = 0.03) -> tuple[Thing, ...]:
    """Things, each in a place of its own, moved and scaled a little; none touch or leave the picture."""
    settled: list[Thing] = []
    scaled = [
        dataclasses.replace(thing, radius=RADIUS[thing.size] * (1 + rng.uniform(-vary, vary))) for thing in things
    ]
    for i, thing in enumerate(scaled):
        others = settled + scaled[i + 1 :]
        for attempt in range(8):
            reach = jitter * (1 - attempt / 7)
            edge = thing.radius + 0.015
            x = min(1 - edge, max(edge, thing.x + rng.uniform(-reach, reach)))
            y = min(1 - edge, max(edge, thing.y + rng.uniform(-reach, reach)))
            clear = (max(abs(x - o.x), abs(y - o.y)) - thing.radius - o.radius for o in others)
            if all(gap > 0.02 for gap in clear):
                break
        settled.append(dataclasses.replace(thing, x=round(x, 4), y=round(y, 4)))
    return tuple(settled)


def random_scene(rng: random.Random, num_things: int, unseen: bool = False, ground: str | None = None) -> Scene:
    """Things at places of their own, in reading order; with `unseen`, one is an unseen combination.

    No two things have the same colour and shape, so that each can be named.
    """
    kinds: list[Thing] = []
    while len(kinds) < num_things:
        kind = random_kind(rng, unseen=unseen and not kinds)
        if all((kind.colour, kind.shape) != (other.colour, other.shape) for other in kinds):
            kinds.append(kind)
    return place_all(rng, kinds, ground)


def place_all(rng: random.Random, kinds: list[Thing], ground: str | None = None) -> Scene:
    """A scene of these things at random places."""
    places = rng.sample(PLACES, len(kinds))
    things = settle(rng, [kind.at(place) for kind, place in zip(kinds, places, strict=True)])
    return Scene(in_reading_order(things), ground or GROUNDS[rng.randrange(len(GROUNDS))])
