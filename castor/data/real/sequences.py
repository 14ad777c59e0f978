"""Digits in new sequences, for training: put together from the images and recordings of the training split."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from castor.content import Audio, Video
from castor.data.real.augment import resounded
from castor.media.audio import RATE_HZ

SIDE, DIGIT, MARGIN = 48, 28, 10  # of a frame, of a digit in it, and from its edge to the middle place
FRAMES = (5, 5, 6)  # that show each of three digits
WAYS_PX = {"up": (-8, 0), "down": (8, 0), "left": (0, -8), "right": (0, 8)}  # from the middle to where a digit ends


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
        voice = rng.getrandbits(32)  # the same change of voice for all
        parts = [resounded(sound.samples(), random.Random(voice)) for sound in self.sounds]
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
