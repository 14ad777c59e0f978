"""Real data made more varied for training: pictures drawn otherwise, voices of another pitch, digits in new sequences.

What is held out is never used: sequences are put together from the recordings and images of the training split.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow
from PIL import ImageFilter, ImageOps

from castor.content import Audio, Image, Video

RATE_HZ = 16_000
WHITE = (255, 255, 255)
SIDE, DIGIT, MARGIN = 48, 28, 10  # of a frame, of a digit in it, and from its edge to the middle place
FRAMES = (5, 5, 6)  # that show each of three digits
WAYS_PX = {"up": (-8, 0), "down": (8, 0), "left": (0, -8), "right": (0, 8)}  # from the middle to where a digit ends


def varied_picture(picture: Image, rng: random.Random) -> Image:
    """A drawing on white, smaller, turned, moved, in other colours, with black outlines every other time."""
    drawn = Pillow.fromarray(picture.pixels())
    size = drawn.size
    if rng.random() < 0.4:
        drawn = outlined(drawn)
    if rng.random() < 0.5:
        drawn = recoloured(drawn, rng)
    wide, high = (max(1, round(side * rng.uniform(0.65, 1.0))) for side in size)
    drawn = drawn.resize((wide, high if rng.random() < 0.3 else wide * size[1] // size[0]), Pillow.Resampling.BILINEAR)
    drawn = drawn.rotate(rng.uniform(-12, 12), Pillow.Resampling.BILINEAR, fillcolor=WHITE)
    sheet = Pillow.new("RGB", size, WHITE)
    sheet.paste(drawn, (rng.randint(0, size[0] - drawn.width), rng.randint(0, size[1] - drawn.height)))
    return Image.from_pixels(np.asarray(sheet), name=picture.name)


def outlined(drawn: Pillow.Image) -> Pillow.Image:
    """A drawing with thin black lines where its colours part."""
    framed = ImageOps.expand(drawn, 2, WHITE)
    edges = np.asarray(framed.filter(ImageFilter.FIND_EDGES).convert("L"))[2:-2, 2:-2]
    lines = Pillow.fromarray(np.where(edges > 110, 255, 0).astype(np.uint8))
    return Pillow.composite(Pillow.new("RGB", drawn.size), drawn, lines)


def recoloured(drawn: Pillow.Image, rng: random.Random) -> Pillow.Image:
    """A drawing in colours a little others, paler or darker; what is white stays."""
    is_white = np.asarray(drawn).min(-1) > 245
    hsv = np.array(drawn.convert("HSV"), np.int16)
    hsv[..., 0] = (hsv[..., 0] + rng.randint(-10, 10)) % 256
    for channel, least, most in ((1, 0.4, 1.3), (2, 0.75, 1.1)):
        hsv[..., channel] = np.clip(hsv[..., channel] * rng.uniform(least, most), 0, 255)
    pixels = np.array(Pillow.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB"))
    pixels[is_white] = 255
    return Pillow.fromarray(pixels)


def varied_sound(sound: Audio, rng: random.Random) -> Audio:
    """A recording up to a fifth faster and higher or slower and lower, softer or louder, with a little noise."""
    return Audio.from_samples(_varied(sound.samples(), rng), RATE_HZ)


def _varied(samples_S: np.ndarray, rng: random.Random) -> np.ndarray:
    faster = rng.uniform(0.82, 1.22)
    places = np.arange(0, len(samples_S) - 1, faster)
    samples_S = np.interp(places, np.arange(len(samples_S)), samples_S).astype(np.float32)
    samples_S *= rng.uniform(0.4, 0.95) / max(float(np.abs(samples_S).max(initial=0.0)), 1e-4)
    noise_S = np.random.default_rng(rng.getrandbits(64)).standard_normal(len(samples_S), dtype=np.float32)
    padding = [int(RATE_HZ * rng.uniform(0, 0.15)) for _ in range(2)]
    return np.pad(samples_S + rng.choice((0.0, 0.0, 0.001, 0.003)) * noise_S, padding)


@dataclass(frozen=True)
class DigitSequence:
    """Three digits: an image, uint8 [28, 28], and a recording of each, where it is to be heard."""

    images: tuple[np.ndarray, ...]
    sounds: tuple[Audio, ...] = ()

    def image(self) -> np.ndarray:
        """The images side by side, uint8 [28, 84]."""
        return np.concatenate(self.images, axis=1)

    def spoken(self, rng: random.Random) -> Audio:
        """One after the other, by one voice."""
        faster = rng.getrandbits(32)  # the same change of voice for all
        parts = [_varied(sound.samples(), random.Random(faster)) for sound in self.sounds]
        return Audio.from_samples(np.concatenate(parts), RATE_HZ)

    def film(self, rng: random.Random, fps: float) -> Video:
        """Each moves in a direction, halfway through the middle, as uint8 [16, 48, 48] at `fps`."""
        frames = []
        for image_HW, number in zip(self.images, FRAMES, strict=True):
            down, right = WAYS_PX[rng.choice(tuple(WAYS_PX))]
            for far in np.linspace(-1, 1, number):
                top, left = (MARGIN + round(way * far) for way in (down, right))
                frame_HW = np.zeros((SIDE, SIDE), np.uint8)
                frame_HW[top : top + DIGIT, left : left + DIGIT] = image_HW
                frames.append(frame_HW)
        return Video.from_frames(np.repeat(np.stack(frames)[..., None], 3, axis=3), fps)
