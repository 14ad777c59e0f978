"""Real pictures and sounds as they might have been as well: moved, tinted, sooner, louder. For training alone.

Small sets show each thing a few times; without this a model learns the files and not what they show.
"""

from __future__ import annotations

import dataclasses
import random

import numpy as np
from PIL import Image as Picture
from PIL import ImageEnhance, ImageFilter, ImageOps

from castor.content import Audio, Image, Message, Part
from castor.example import Example
from castor.media.audio import RATE_HZ

TURN_DEG, SCALE, SHIFT = 14.0, (0.72, 1.12), 0.09  # of pictures; the shift is a share of their side
RESTYLED = 0.3  # share of pictures
SPEED = (0.86, 1.16)  # of sounds, which moves their pitch as well
MOST_DIMMED_DB, MOST_NOISE = 12.0, 0.012


def augmented(example: Example, rng: random.Random) -> Example:
    """The same example with every picture and sound that is read changed a little."""
    messages = [
        message if message.role == "model" else Message(message.role, tuple(_part(part, rng) for part in message.parts))
        for message in example.messages
    ]
    return dataclasses.replace(example, messages=tuple(messages))


def _part(part: Part, rng: random.Random) -> Part:
    if isinstance(part, Image):
        return Image.from_pixels(moved(part.pixels(), rng), name=part.name)
    if isinstance(part, Audio):
        return Audio.from_samples(resounded(part.samples(), rng), name=part.name)
    return part


def moved(pixels_HWC: np.ndarray, rng: random.Random) -> np.ndarray:
    """A picture turned, scaled and shifted on a ground like its corner, lighter or darker and more or less coloured."""
    picture = Picture.fromarray(pixels_HWC)
    width, height = picture.size
    angle, scale = np.deg2rad(rng.uniform(-TURN_DEG, TURN_DEG)), rng.uniform(*SCALE)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    x, y = (side * (0.5 + rng.uniform(-SHIFT, SHIFT)) for side in (width, height))
    # from a place in the new picture to the one it shows of the old
    matrix = (cos, sin, width / 2 - cos * x - sin * y, -sin, cos, height / 2 + sin * x - cos * y)
    ground = tuple(int(value) for value in pixels_HWC[0, 0])
    picture = picture.transform(
        picture.size, Picture.Transform.AFFINE, matrix, Picture.Resampling.BILINEAR, fillcolor=ground
    )
    for change, most in ((ImageEnhance.Brightness, 0.2), (ImageEnhance.Contrast, 0.25), (ImageEnhance.Color, 0.5)):
        picture = change(picture).enhance(1 + rng.uniform(-most, most))
    if rng.random() < RESTYLED:
        picture = restyled(picture, rng)
    return np.asarray(picture)


def restyled(picture: Picture.Image, rng: random.Random) -> Picture.Image:
    """The picture as another hand might draw it: with dark outlines, in few colours, or without any."""
    style = rng.choice(("outlined", "flat", "grey"))
    if style == "outlined":
        edges = picture.convert("L").filter(ImageFilter.FIND_EDGES).filter(ImageFilter.MaxFilter(3))
        return Picture.composite(Picture.new("RGB", picture.size), picture, edges.point(lambda v: 255 * (v > 60)))
    return ImageOps.posterize(picture, 2) if style == "flat" else ImageOps.grayscale(picture).convert("RGB")


def resounded(samples_S: np.ndarray, rng: random.Random) -> np.ndarray:
    """A sound faster or slower, louder or softer, a moment later, with a little noise: float32 [S'] at 16 kHz."""
    speed = rng.uniform(*SPEED)
    places = np.arange(0, len(samples_S) - 1, speed)
    changed_S = np.interp(places, np.arange(len(samples_S)), samples_S) if len(places) else samples_S
    changed_S = np.pad(changed_S, (rng.randrange(RATE_HZ // 20), 0))
    noise_S = np.random.default_rng(rng.getrandbits(32)).standard_normal(len(changed_S))
    level = float(np.abs(samples_S).max(initial=0.0)) * rng.uniform(0.0, MOST_NOISE)
    gain = 10 ** (-rng.uniform(0.0, MOST_DIMMED_DB) / 20)
    return np.clip(gain * (changed_S + level * noise_S), -1.0, 1.0).astype(np.float32)
