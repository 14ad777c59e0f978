"""Scenes to pixels: flat colours, smooth edges, a plain ground.

Masks are drawn at eight times the size, shrunk and kept, so that a picture costs one paste for each thing.
"""

import math
from functools import cache

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw

from castor.diorama.scene import RADIUS, Scene, Thing

PICTURE_PX = 128  # pictures to read
DRAWING_PX = 72  # of a drawing: each of its 3 x 3 places is 3 x 3 codes, so that a thing has the same ones everywhere
FRAME_PX = 64  # video frames
RGB = {
    "red": (220, 38, 38),
    "green": (34, 160, 70),
    "blue": (37, 84, 220),
    "yellow": (245, 208, 20),
    "orange": (246, 130, 16),
    "purple": (130, 50, 175),
    "pink": (245, 135, 195),
    "black": (25, 25, 28),
}
GROUND_RGB = {
    "white": (255, 255, 255),
    "grey": (240, 240, 240),
    "cream": (252, 248, 236),
    "sky": (236, 244, 252),
    "mint": (237, 249, 240),
}
_SCALE = 8


def outline(shape: str) -> list[tuple[float, float]]:
    """Corners of a shape inside the square [-1, 1] x [-1, 1], y down."""
    if shape == "circle":
        return [(0.97 * math.cos(a / 32 * math.pi), 0.97 * math.sin(a / 32 * math.pi)) for a in range(64)]
    if shape == "square":
        return [(-0.87, -0.87), (0.87, -0.87), (0.87, 0.87), (-0.87, 0.87)]
    if shape == "triangle":
        return [(0.0, -0.95), (1.0, 0.82), (-1.0, 0.82)]
    if shape == "star":
        radii = (1.05, 0.44)
        return [
            (radii[i % 2] * math.sin(i * math.pi / 5), 0.06 - radii[i % 2] * math.cos(i * math.pi / 5))
            for i in range(10)
        ]
    if shape == "heart":
        turns = [t / 32 * math.pi for t in range(64)]
        return [
            (
                math.sin(t) ** 3 * 1.0,
                -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 15 - 0.13,
            )
            for t in turns
        ]
    if shape == "cross":
        w, e = 0.34, 0.96
        half = [(-w, -e), (w, -e), (w, -w), (e, -w), (e, w), (w, w)]
        return half + [(-x, -y) for x, y in half]
    raise ValueError(f"no shape {shape!r}")


@cache
def mask_of(shape: str, radius_quarter_px: int) -> Pillow.Image:
    """Coverage (0 to 255) of a shape, its centre in the middle pixel; the radius is in quarter pixels."""
    radius_px = radius_quarter_px / 4
    half_px = math.ceil(radius_px) + 1
    side = (2 * half_px + 1) * _SCALE
    large = Pillow.new("L", (side, side))
    middle = side / 2 - 0.5
    corners = [(middle + x * radius_px * _SCALE, middle + y * radius_px * _SCALE) for x, y in outline(shape)]
    ImageDraw.Draw(large).polygon(corners, fill=255)
    return large.reduce(_SCALE)


def render_things(things: tuple[Thing, ...] | list[Thing], ground: str, side_px: int) -> np.ndarray:
    """Pixels uint8 [side, side, 3] of things on a ground; places round to whole pixels, radii to quarters."""
    picture = Pillow.new("RGB", (side_px, side_px), GROUND_RGB[ground])
    for thing in things:
        mask = mask_of(thing.shape, round((thing.radius or RADIUS[thing.size]) * side_px * 4))
        half_px = mask.width // 2
        corner = (round(thing.x * side_px) - half_px, round(thing.y * side_px) - half_px)
        picture.paste(RGB[thing.colour], corner, mask)
    return np.asarray(picture)


def render(scene: Scene, side_px: int = PICTURE_PX) -> np.ndarray:
    """Pixels uint8 [side, side, 3] of a scene."""
    return render_things(scene.things, scene.ground, side_px)
