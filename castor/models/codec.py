"""The image codec: pixels -> a small grid of whole numbers -> pixels, so that a decoder can write pictures.

A fully convolutional autoencoder with finite scalar quantisation in the middle; works at any size.
It has no adversarial or perceptual term: it is meant for drawings first, where plain pixel error is honest.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castor.checkpoint import load_json, load_tensors, save_json, save_tensors
from castor.config import from_dict, to_dict
from castor.nn.quantizer import FSQ

WEIGHTS_FILE = "codec.safetensors"
CONFIG_FILE = "codec.json"
FINE_PX = 4  # one cell of the fine grid; two fine cells make one code cell


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Shape of the codec. Defaults: 1000 codes, one per 8x8 pixels, about a million parameters."""

    levels: tuple[int, ...] = (8, 5, 5, 5)  # values per latent entry; their product is the number of codes
    fine_width: int = 64  # channels on the 4-pixel grid
    width: int = 112  # channels on the 8-pixel grid
    encoder_blocks: tuple[int, int] = (1, 1)  # residual blocks on the (4-pixel, 8-pixel) grid
    decoder_blocks: tuple[int, int] = (1, 2)
    encoder_kernel: int = 1  # 1: a code depends on its own 8x8 pixels alone; 3: on its surroundings too
    edge_weight: float = 0.2  # of the difference of neighbouring pixels in the loss

    def __post_init__(self) -> None:
        if min(self.fine_width, self.width) < 1:
            raise ValueError(f"widths must be positive, got {self.fine_width} and {self.width}")
        if self.encoder_kernel % 2 != 1:
            raise ValueError(f"encoder_kernel must be odd, got {self.encoder_kernel}")
        if self.edge_weight < 0:
            raise ValueError(f"edge_weight must not be negative, got {self.edge_weight}")

    @property
    def num_codes(self) -> int:
        """Size of the code book."""
        return int(np.prod(self.levels))

    @property
    def downsampling(self) -> int:
        """Pixels along one side of the square that one code stands for."""
        return 2 * FINE_PX


class ChannelNorm(nn.Module):
    """RMS norm over channels at each place of [B, C, H, W]; unlike a group norm it knows no picture size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        scale_B1HW = torch.rsqrt(x_BCHW.square().mean(1, keepdim=True) + 1e-6)
        return x_BCHW * scale_B1HW * self.weight[:, None, None]


class Residual(nn.Module):
    """x + conv(silu(conv(norm(x))))."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(width)
        self.enter = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        self.leave = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        for parameter in self.leave.parameters():  # a block begins as the identity
            nn.init.zeros_(parameter)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + self.leave(F.silu(self.enter(self.norm(x_BCHW))))


def _blocks(count: int, width: int, kernel: int = 3) -> list[nn.Module]:
    return [Residual(width, kernel) for _ in range(count)]


class ImageCodec(nn.Module):
    """uint8 [H, W, 3] -> `encode` -> int64 [h, w] -> `decode` -> uint8 [8h, 8w, 3].

    Sides that are no multiple of 8 are extended at the right and the bottom by repeating the last pixel.
    """

    def __init__(self, config: CodecConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CodecConfig()
        fine, width, latent = config.fine_width, config.width, len(config.levels)
        pixels, kernel = 3 * FINE_PX * FINE_PX, config.encoder_kernel
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(FINE_PX), nn.Conv2d(pixels, fine, kernel, padding=kernel // 2),
            *_blocks(config.encoder_blocks[0], fine, kernel),
            nn.Conv2d(fine, width, 2, stride=2),
            *_blocks(config.encoder_blocks[1], width, kernel),
            ChannelNorm(width), nn.Conv2d(width, latent, 1),
        )  # fmt: skip
        self.quantizer = FSQ(config.levels)
        self.decoder = nn.Sequential(
            nn.Conv2d(latent, width, 3, padding=1), *_blocks(config.decoder_blocks[1], width),
            nn.Conv2d(width, 4 * fine, 1), nn.PixelShuffle(2), *_blocks(config.decoder_blocks[0], fine),
            ChannelNorm(fine), nn.Conv2d(fine, pixels, 3, padding=1), nn.PixelShuffle(FINE_PX),
        )  # fmt: skip

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """float [B, 3, H, W] in [-1, 1] on the grid -> (the same repainted, codes int64 [B, h, w])."""
        latent_BHWK = self.encoder(images_BCHW).permute(0, 2, 3, 1)
        quantised_BHWK, codes_BHW = self.quantizer(latent_BHWK)
        return self.decoder(quantised_BHWK.permute(0, 3, 1, 2)), codes_BHW

    def loss(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(sum, count, metrics) over the values of uint8 images [B, 3, H, W] on the grid.

        Absolute plus squared error, and the absolute error of horizontal and vertical differences, which
        keeps edges sharp. Metrics: `psnr_db` of the batch, `codes_BHW`.
        """
        wanted_BCHW = images_BCHW.to(self.device).float() / 127.5 - 1
        painted_BCHW, codes_BHW = self(wanted_BCHW)
        error_BCHW = painted_BCHW.float() - wanted_BCHW
        squared = error_BCHW.square().mean()
        edges = error_BCHW.diff(dim=2).abs().mean() + error_BCHW.diff(dim=3).abs().mean()
        mean = error_BCHW.abs().mean() + squared + self.config.edge_weight * edges
        count = torch.tensor(error_BCHW.numel(), device=mean.device)
        metrics = {"psnr_db": 10 * torch.log10(4 / squared.detach().clamp_min(1e-10)), "codes_BHW": codes_BHW}
        return mean * count, count, metrics

    @torch.inference_mode()
    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] or [B, H, W, 3] -> codes int64 [h, w] or [B, h, w], h = ceil(H / 8)."""
        if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[-1] != 3:
            raise ValueError(f"pixels must be uint8 [(B,) H, W, 3], got {pixels.dtype} {pixels.shape}")
        if not all(pixels.shape):
            raise ValueError(f"a picture must have at least one pixel, got {pixels.shape}")
        pixels_BHWC = pixels.reshape(-1, *pixels.shape[-3:]).astype(np.float32)
        images_BCHW = torch.from_numpy(pixels_BHWC).to(self.device).permute(0, 3, 1, 2) / 127.5 - 1
        grid = self.config.downsampling
        right, bottom = -images_BCHW.shape[3] % grid, -images_BCHW.shape[2] % grid
        latent_BKHW = self.encoder(F.pad(images_BCHW, (0, right, 0, bottom), mode="replicate"))
        codes_BHW = self.quantizer(latent_BKHW.permute(0, 2, 3, 1))[1].cpu().numpy()
        return codes_BHW[0] if pixels.ndim == 3 else codes_BHW

    @torch.inference_mode()
    def decode(self, codes: np.ndarray | Tensor) -> np.ndarray:
        """int64 codes [h, w] or [B, h, w] -> uint8 pixels [8h, 8w, 3] or [B, 8h, 8w, 3]."""
        codes = torch.as_tensor(codes)
        if codes.ndim not in (2, 3) or not codes.numel() or codes.is_floating_point():
            shape = tuple(codes.shape)
            raise ValueError(f"codes must be whole numbers [(B,) h, w], got {codes.dtype} {shape}")
        codes_BHW = codes.reshape(-1, *codes.shape[-2:]).long().to(self.device)
        painted_BCHW = self.decoder(self.quantizer.to_values(codes_BHW).permute(0, 3, 1, 2))
        pixels_BHWC = ((painted_BCHW.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        pixels_BHWC = pixels_BHWC.cpu().contiguous().numpy()
        return pixels_BHWC[0] if codes.ndim == 2 else pixels_BHWC

    def save(self, folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> None:
        """Writes `codec.safetensors` (in `dtype`) and `codec.json` into `folder`."""
        folder = Path(folder)
        tensors = {name: value.to(dtype) for name, value in self.state_dict().items()}
        save_json(folder / CONFIG_FILE, to_dict(self.config))
        save_tensors(folder / WEIGHTS_FILE, tensors)  # last: where the weights are, the codec is whole

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote; the weights are widened to float32."""
        folder = Path(folder)
        config = from_dict(CodecConfig, load_json(folder / CONFIG_FILE))
        codec = cls(config)
        loaded = load_tensors(folder / WEIGHTS_FILE)
        try:
            codec.load_state_dict({name: value.float() for name, value in loaded.items()})
        except RuntimeError as error:
            raise ValueError(f"{folder / WEIGHTS_FILE}: does not fit {CONFIG_FILE} ({str(error):.200})") from None
        return codec.eval()
