"""Pictures as patches: resize to a token budget, cut into squares, and put together again.

Same sizes, pixels and patch order as transformers' Pillow image processor and patch merging for Gemma 4.
"""

from __future__ import annotations

import math

import numpy as np


def budget_size(height_px: int, width_px: int, *, patch_size: int, pooling: int, max_tokens: int) -> tuple[int, int]:
    """Height and width in pixels, multiples of `patch_size * pooling`, filling at most `max_tokens` squares.

    The largest in the picture's own proportions, rounded down. ValueError for a picture too thin to fit.
    """
    side_px = patch_size * pooling
    room_px = max_tokens * pooling**2 * patch_size**2
    factor = math.sqrt(room_px / (height_px * width_px))
    height = math.floor(factor * height_px / side_px) * side_px
    width = math.floor(factor * width_px / side_px) * side_px
    if height == 0 and width == 0:
        raise ValueError(f"{height_px} x {width_px} pixels do not fit {max_tokens} squares of {side_px} pixels")
    if height == 0:
        height, width = side_px, min(width_px // height_px, max_tokens) * side_px
    elif width == 0:
        height, width = min(height_px // width_px, max_tokens) * side_px, side_px
    if height * width > room_px:
        raise ValueError(f"{height_px} x {width_px} pixels do not fit {max_tokens} squares of {side_px} pixels")
    return height, width


def resize_to_budget(pixels_HWC: np.ndarray, patch_size: int, pooling: int, max_tokens: int) -> np.ndarray:
    """The picture, uint8 [H, W, 3], scaled (bicubic, antialiased) to the largest size within the budget."""
    from PIL import Image

    _check_pixels(pixels_HWC)
    height, width = budget_size(*pixels_HWC.shape[:2], patch_size=patch_size, pooling=pooling, max_tokens=max_tokens)
    if (height, width) == pixels_HWC.shape[:2]:
        return pixels_HWC
    return np.array(Image.fromarray(pixels_HWC).resize((width, height), resample=Image.Resampling.BICUBIC))


def patchify(pixels_HWC: np.ndarray, patch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Squares of `patch_size` pixels in reading order, uint8 [P, C]; their (x, y), int32 [P, 2]."""
    _check_pixels(pixels_HWC)
    height_px, width_px, _ = pixels_HWC.shape
    if height_px % patch_size or width_px % patch_size:
        raise ValueError(f"{height_px} x {width_px} pixels cannot be cut into squares of {patch_size} pixels")
    rows, columns = height_px // patch_size, width_px // patch_size
    squares = pixels_HWC.reshape(rows, patch_size, columns, patch_size, 3).transpose(0, 2, 1, 3, 4)
    y, x = np.divmod(np.arange(rows * columns, dtype=np.int32), columns)
    return squares.reshape(rows * columns, -1), np.stack([x, y], axis=-1)


def unpatchify(patches_PC: np.ndarray, xy_P2: np.ndarray) -> np.ndarray:
    """The picture [H, W, 3] whose squares, in any order, these are."""
    side_px = math.isqrt(patches_PC.shape[1] // 3)
    columns, rows = (xy_P2.max(axis=0) + 1).tolist()
    if len(patches_PC) != rows * columns or side_px**2 * 3 != patches_PC.shape[1]:
        raise ValueError(f"{patches_PC.shape} patches do not make a picture of {rows} x {columns} squares")
    squares = np.empty((rows, columns, side_px, side_px, 3), dtype=patches_PC.dtype)
    squares[xy_P2[:, 1], xy_P2[:, 0]] = patches_PC.reshape(-1, side_px, side_px, 3)
    return squares.transpose(0, 2, 1, 3, 4).reshape(rows * side_px, columns * side_px, 3)


def _check_pixels(pixels_HWC: np.ndarray) -> None:
    if pixels_HWC.dtype != np.uint8 or pixels_HWC.ndim != 3 or pixels_HWC.shape[2] != 3:
        raise ValueError(f"pixels are {pixels_HWC.dtype} {list(pixels_HWC.shape)}, not uint8 [H, W, 3]")
