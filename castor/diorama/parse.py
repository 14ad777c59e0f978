"""Pixels back to a scene, and how well a scene matches the one that was wanted.

Classical and numpy only: the ground is the median of the border, what differs from it falls into connected
parts, each part's colour is the nearest of the palette and its shape and size the best overlap with drawn
templates. Works at 64 x 64, so that noise and blur of a lossy image code average out.
"""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from PIL import Image as Pillow

from castor.diorama.render import GROUND_RGB, RGB, mask_of
from castor.diorama.scene import COLOURS, RADIUS, SHAPES, SIZES, Scene, Thing, holds, in_reading_order
from castor.diorama.words import parse_caption

SIDE_PX = 64
MIN_AREA_PX = 22.0
FAR = 75.0  # RGB distance from the ground from which a pixel belongs to a thing
_REACH_PX = 13  # half side of the window that templates are compared in


def _at_parse_size(pixels_HWC: np.ndarray) -> np.ndarray:
    """float32 [64, 64, 3]."""
    if pixels_HWC.ndim != 3 or pixels_HWC.shape[2] != 3:
        raise ValueError(f"pixels must be [height, width, 3], got {pixels_HWC.shape}")
    height, width = pixels_HWC.shape[:2]
    if (height, width) != (SIDE_PX, SIDE_PX):
        picture = Pillow.fromarray(np.asarray(pixels_HWC, dtype=np.uint8))
        pixels_HWC = np.asarray(picture.resize((SIDE_PX, SIDE_PX), Pillow.Resampling.BOX))
    return pixels_HWC.astype(np.float32)


def connected_parts(is_on_HW: np.ndarray) -> list[np.ndarray]:
    """Index arrays [N, 2] (row, column) of the 4-connected parts of a mask."""
    waiting = {(int(row), int(column)) for row, column in np.argwhere(is_on_HW)}
    parts = []
    while waiting:
        front = [waiting.pop()]
        part = []
        while front:
            row, column = front.pop()
            part.append((row, column))
            for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if near in waiting:
                    waiting.remove(near)
                    front.append(near)
        parts.append(np.array(part))
    return parts


@cache
def _templates() -> tuple[np.ndarray, np.ndarray, tuple[tuple[str, str], ...]]:
    """Masks [K, S, S] with the centroid in the middle, its offset (x, y) [K, 2], and (shape, size)."""
    side = 2 * _REACH_PX + 1
    masks, offsets, names = [], [], []
    for shape in SHAPES:
        for size in SIZES:
            mask = np.asarray(mask_of(shape, round(RADIUS[size] * SIDE_PX * 4)), dtype=np.float32) / 255
            half = mask.shape[0] // 2
            grid = np.arange(-half, half + 1)
            offset_x = float((mask.sum(0) * grid).sum() / mask.sum())
            offset_y = float((mask.sum(1) * grid).sum() / mask.sum())
            placed = np.zeros((side, side), np.float32)
            top, left = _REACH_PX - half - round(offset_y), _REACH_PX - half - round(offset_x)
            placed[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
            masks.append(placed)
            offsets.append((offset_x, offset_y))
            names.append((shape, size))
    return np.stack(masks), np.array(offsets), tuple(names)


def _palette_colour(pixels_NC: np.ndarray, ground_C: np.ndarray) -> str:
    """The palette colour whose mixture with the ground is nearest to the part's typical pixel.

    Only the half of the pixels farthest from the ground counts; a paler mixture costs a little, because a
    colour of full strength explains it better than blur.
    """
    far_N = np.linalg.norm(pixels_NC - ground_C, axis=1)
    core_C = np.median(pixels_NC[far_N >= np.median(far_N)], axis=0)
    toward_KC = np.array([RGB[colour] for colour in COLOURS], np.float32) - ground_C
    strength_K = np.clip(toward_KC @ (core_C - ground_C) / (toward_KC**2).sum(1), 0.5, 1.0)
    misfit_K = np.linalg.norm(ground_C + strength_K[:, None] * toward_KC - core_C, axis=1) + 60 * (1 - strength_K)
    return COLOURS[int(misfit_K.argmin())]


def _read_part(pixels_HWC: np.ndarray, part_N2: np.ndarray, ground_C: np.ndarray) -> Thing | None:
    """One connected part as a thing; None where it is too small to be one."""
    colour = _palette_colour(pixels_HWC[part_N2[:, 0], part_N2[:, 1]], ground_C)
    pad = _REACH_PX + 2
    is_part_HW = np.zeros((SIDE_PX + 2 * pad, SIDE_PX + 2 * pad), bool)
    for row_step, column_step in (
        (0, 0),
        (1, 0),
        (-1, 0),
        (0, 1),
        (0, -1),
    ):  # one pixel more, for the soft edge
        is_part_HW[part_N2[:, 0] + pad + row_step, part_N2[:, 1] + pad + column_step] = True
    toward_C = np.array(RGB[colour], np.float32) - ground_C
    cover_HW = np.clip((pixels_HWC - ground_C) @ toward_C / (toward_C @ toward_C), 0, 1)
    cover_HW = np.pad(cover_HW, pad) * is_part_HW
    area = float(cover_HW.sum())
    if area < MIN_AREA_PX:
        return None
    grid = np.arange(SIDE_PX + 2 * pad)
    x, y = float(cover_HW.sum(0) @ grid) / area, float(cover_HW.sum(1) @ grid) / area
    windows = np.stack(
        [
            cover_HW[row - _REACH_PX : row + _REACH_PX + 1, column - _REACH_PX : column + _REACH_PX + 1]
            for row in (min(max(round(y) + d, _REACH_PX), SIDE_PX + pad) for d in (-1, 0, 1))
            for column in (min(max(round(x) + d, _REACH_PX), SIDE_PX + pad) for d in (-1, 0, 1))
        ]
    )
    masks_KSS, offsets_K2, names = _templates()
    both_KW = np.minimum(masks_KSS[:, None], windows[None]).sum((-1, -2))
    either_KW = np.maximum(masks_KSS[:, None], windows[None]).sum((-1, -2)) + (area - windows.sum((-1, -2)))[None]
    best = int((both_KW / either_KW).max(1).argmax())
    shape, size = names[best]
    place = (x - offsets_K2[best, 0] - pad + 0.5) / SIDE_PX, (y - offsets_K2[best, 1] - pad + 0.5) / SIDE_PX
    x, y = (min(0.999, max(0.0, value)) for value in place)
    return Thing(shape, colour, size, round(x, 4), round(y, 4))


def _split_by_colour(pixels_HWC: np.ndarray, part_N2: np.ndarray) -> list[np.ndarray]:
    """A part larger than any thing, cut where the nearest palette colour changes."""
    extent = part_N2.max(0) - part_N2.min(0) + 1
    if extent.max() <= 2 * RADIUS["large"] * SIDE_PX * 1.25 + 1:
        return [part_N2]
    palette_KC = np.array([RGB[colour] for colour in COLOURS], np.float32)
    pixels_NC = pixels_HWC[part_N2[:, 0], part_N2[:, 1]]
    nearest_N = ((pixels_NC[:, None] - palette_KC) ** 2).sum(-1).argmin(1)
    pieces = []
    for label in np.unique(nearest_N):
        is_on_HW = np.zeros((SIDE_PX, SIDE_PX), bool)
        rows, columns = part_N2[nearest_N == label].T
        is_on_HW[rows, columns] = True
        pieces += [piece for piece in connected_parts(is_on_HW) if len(piece) >= MIN_AREA_PX]
    return pieces


def parse(pixels_HWC: np.ndarray) -> Scene:
    """The scene that a square picture (uint8 [H, W, 3]) shows; things in reading order."""
    pixels_HWC = _at_parse_size(pixels_HWC)
    border_NC = np.concatenate([pixels_HWC[0], pixels_HWC[-1], pixels_HWC[:, 0], pixels_HWC[:, -1]])
    ground_C = np.median(border_NC, axis=0)
    ground = min(GROUND_RGB, key=lambda name: math.dist(GROUND_RGB[name], ground_C))
    is_thing_HW = np.linalg.norm(pixels_HWC - ground_C, axis=-1) > FAR
    things = []
    for part in connected_parts(is_thing_HW):
        if len(part) < MIN_AREA_PX / 2:
            continue
        for piece in _split_by_colour(pixels_HWC, part):
            thing = _read_part(pixels_HWC, piece, ground_C)
            if thing is not None:
                things.append(thing)
    return Scene(in_reading_order(things), ground)


def agreement(thing: Thing, wanted: Thing) -> float:
    """Share of the attributes that `wanted` names (shape, colour, size, place) which `thing` has."""
    keys = [key for key in ("shape", "colour", "size", "place") if getattr(wanted, key)]
    return sum(getattr(thing, key) == getattr(wanted, key) for key in keys) / len(keys) if keys else 1.0


def scene_f1(predicted: Scene, wanted: Scene, partial: bool = False) -> float:
    """F1 in [0, 1] of the things (and stated relations) of a scene.

    A thing counts when every attribute that `wanted` names agrees (with `partial`, by the share that agrees);
    each stated relation counts as one more item. Matching is greedy, best pairs first.
    """
    pairs = sorted(
        ((agreement(p, w), i, j) for i, p in enumerate(predicted.things) for j, w in enumerate(wanted.things)),
        key=lambda pair: (-pair[0], pair[1], pair[2]),
    )
    match: dict[int, tuple[int, float]] = {}
    taken: set[int] = set()
    for score, i, j in pairs:
        if i not in taken and j not in match and (score == 1.0 or partial):
            match[j] = (i, score)
            taken.add(i)
    hits = sum(score for _, score in match.values())
    for first, relation, second in wanted.relations:
        if first in match and second in match:
            a, b = predicted.things[match[first][0]], predicted.things[match[second][0]]
            hits += bool(a.place and b.place and holds(a, relation, b))
    num_relations = len(wanted.relations)
    num_items = len(predicted.things) + len(wanted.things) + 2 * num_relations
    return 2 * hits / num_items if num_items else 1.0


def drawing_f1(pixels_HWC: np.ndarray, wanted: Mapping[str, Any]) -> float:
    """`scene_f1` of a picture against the JSON of the scene that was asked for."""
    return scene_f1(parse(pixels_HWC), Scene.from_json(wanted))


def caption_f1(caption: str, language: str, wanted: Mapping[str, Any]) -> float:
    """`scene_f1` of the things that a caption names against the JSON of the scene that it describes."""
    return scene_f1(Scene(tuple(parse_caption(caption, language))), Scene.from_json(wanted))
