"""How the image codec learns: pictures from a callable, one loss, a budget, a running average of weights."""

import copy
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from castor.models.codec import CodecConfig, ImageCodec
from castor.runtime import best_precision

Pictures = Callable[[random.Random], np.ndarray]  # gives uint8 [H, W, 3]


@dataclass(frozen=True, kw_only=True)
class CodecTraining:
    """How to train; the budget is given to `train_codec` itself."""

    batch_size: int = 8
    size_px: int = 64  # side of the square that every picture is cut or extended to
    mosaic_share: float = 0.75  # of squares made of four busy quarters, as most of a drawing is empty ground
    num_tries: int = 3  # cuts of which the busiest becomes a quarter
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    final_share: float = 0.02  # of the learning rate left at the end (cosine in between)
    weight_decay: float = 0.01
    average_decay: float = 0.995  # of the running average of weights that is returned
    log_every: int = 50
    bf16: bool | None = None  # convolutions in bfloat16; None: where the device multiplies it natively

    def __post_init__(self) -> None:
        if self.size_px % 16 or self.size_px < 16:
            raise ValueError(f"size_px must be a positive multiple of 16, got {self.size_px}")
        if not 0 <= self.mosaic_share <= 1:
            raise ValueError(f"mosaic_share must be in 0..1, got {self.mosaic_share}")


def _square(pixels_HWC: np.ndarray, size_px: int, rng: random.Random) -> np.ndarray:
    """Cuts a random square on the 8-pixel grid, repeating the last pixel where the picture is too small."""
    height, width = pixels_HWC.shape[:2]
    if height < size_px or width < size_px:
        pad = ((0, max(0, size_px - height)), (0, max(0, size_px - width)), (0, 0))
        pixels_HWC = np.pad(pixels_HWC, pad, mode="edge")
        height, width = pixels_HWC.shape[:2]
    top, left = 8 * rng.randint(0, (height - size_px) // 8), 8 * rng.randint(0, (width - size_px) // 8)
    return pixels_HWC[top : top + size_px, left : left + size_px]


def _mosaic(images: Pictures, training: CodecTraining, rng: random.Random) -> np.ndarray:
    """Four quarters of different pictures, each the busiest of a few cuts."""
    quarters = []
    for _ in range(4):
        pixels_HWC = images(rng)
        cuts = [_square(pixels_HWC, training.size_px // 2, rng) for _ in range(training.num_tries)]
        quarters.append(max(cuts, key=lambda cut: float(cut.std(axis=(0, 1)).sum())))
    return np.concatenate([np.concatenate(quarters[:2], axis=1), np.concatenate(quarters[2:], axis=1)])


def picture_batch(images: Pictures, seed: int, step: int, training: CodecTraining) -> Tensor:
    """uint8 [B, 3, size, size]; a pure function of (seed, step)."""
    rng = random.Random(f"{seed}/{step}")
    squares = [
        _mosaic(images, training, rng)
        if rng.random() < training.mosaic_share
        else _square(images(rng), training.size_px, rng)
        for _ in range(training.batch_size)
    ]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)


def measure_codec(codec: ImageCodec, pictures: list[np.ndarray]) -> dict[str, float]:
    """Mean PSNR over pictures (dB, after rounding to 8 bits), share of codes used, their perplexity."""
    if not pictures:
        raise ValueError("no pictures to measure the codec on")
    counts = torch.zeros(codec.config.num_codes)
    psnr_db = []
    for pixels_HWC in pictures:
        codes_HW = codec.encode(pixels_HWC)
        height, width = pixels_HWC.shape[:2]
        painted_HWC = codec.decode(codes_HW)[:height, :width]
        squared = np.mean((painted_HWC.astype(np.float64) - pixels_HWC) ** 2)
        psnr_db.append(10 * math.log10(255**2 / max(squared, 1e-2)))
        counts += torch.from_numpy(np.bincount(codes_HW.ravel(), minlength=codec.config.num_codes))
    share = counts / counts.sum()
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    return {
        "psnr_db": sum(psnr_db) / len(psnr_db),
        "codes_used": float((counts > 0).float().mean()),
        "perplexity": float(entropy.exp()),
    }


def _progress(step: int, start_s: float, seconds: float | None, steps: int | None) -> float:
    by_time = (time.monotonic() - start_s) / seconds if seconds else 0.0
    return max(by_time, step / steps if steps else 0.0)


def train_codec(
    config: CodecConfig,
    images: Pictures,
    *,
    seconds: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    training: CodecTraining | None = None,
    codec: ImageCodec | None = None,
    on_progress: Callable[[dict[str, float]], None] | None = None,
) -> tuple[ImageCodec, dict[str, float]]:
    """Trains until `seconds` or `steps` are spent, whichever is first; `codec` continues an earlier one.

    With `steps` alone the result is a function of the seed. Gives (codec, metrics of the last steps).
    """
    if seconds is None and steps is None:
        raise ValueError("give seconds or steps (or both); both are None")
    training = training or CodecTraining()
    bf16 = best_precision(str(device)) == "bfloat16" if training.bf16 is None else training.bf16
    torch.manual_seed(seed)
    codec = (codec or ImageCodec(config)).to(device).train()
    codec.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
    average = copy.deepcopy(codec).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        codec.parameters(),
        lr=training.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=training.weight_decay,
        fused=True,
    )
    start_s, step, record = time.monotonic(), 0, {}
    while (progress := _progress(step, start_s, seconds, steps)) < 1:
        warmup = min(1.0, (step + 1) / training.warmup_steps)
        cosine = (1 + math.cos(math.pi * progress)) / 2
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * warmup * max(cosine, training.final_share)
        images_BCHW = picture_batch(images, seed, step, training)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            total, count, metrics = codec.loss(images_BCHW.contiguous(memory_format=torch.channels_last))
        optimizer.zero_grad(set_to_none=True)
        (total / count).backward()
        norm = torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        _follow(average, codec, min(training.average_decay, (1 + step) / (10 + step)))
        step += 1
        record = {
            "step": step, "elapsed_s": time.monotonic() - start_s, "loss": float(total.detach() / count),
            "psnr_db": float(metrics["psnr_db"]), "grad_norm": float(norm),
            "codes_in_batch": float(metrics["codes_BHW"].unique().numel()),
        }  # fmt: skip
        if on_progress and step % training.log_every == 0:
            on_progress(record)
    return average.eval(), record


@torch.no_grad()
def _follow(average: ImageCodec, codec: ImageCodec, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(codec.parameters()), 1 - decay)
