"""Finite scalar quantisation: a vector of a few bounded numbers, each rounded to a few levels, is a code.

Source: Mentzer, Minnen, Agustsson and Tschannen, "Finite Scalar Quantization: VQ-VAE Made Simple" (2023),
section 3 and appendix A.1. No codebook is learned, so none collapses: no commitment loss and no re-seeding.
"""

import math

import torch
from torch import Tensor, nn

SHARED = 0.8  # of the variance of a code's first embedding: what it has in common with the codes near it


def round_straight_through(x: Tensor) -> Tensor:
    """Rounds forward; passes the gradient unchanged backward."""
    return x + (x.round() - x).detach()


class FSQ(nn.Module):
    """Quantises the last dimension, one entry per level count, and numbers the results.

    `levels` (8, 5, 5, 5) gives 8*5*5*5 = 1000 codes. The first entry varies fastest in the code number:
    digits (d0, d1, d2, d3) -> d0 + 8*d1 + 40*d2 + 200*d3. Quantised values lie in [-1, 1].
    """

    levels_K: Tensor
    strides_K: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"every level count must be at least 2, got {levels}")
        self.levels = tuple(levels)
        self.num_codes = math.prod(levels)
        self.register_buffer("levels_K", torch.tensor(levels), persistent=False)
        strides = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("strides_K", torch.tensor(strides), persistent=False)

    def bound(self, z_K: Tensor) -> Tensor:
        """Squashes each entry so that rounding gives exactly its number of levels: (-L/2 - eps .. L/2 + eps).

        An even count has no level at zero, so the range is moved by one half and the input is moved back,
        which keeps bound(0) = 0.
        """
        half_K = (self.levels_K - 1).to(z_K.dtype) * (1 + 1e-3) / 2
        offset_K = (self.levels_K % 2 == 0).to(z_K.dtype) / 2
        shift_K = torch.atanh(offset_K / half_K)
        return torch.tanh(z_K + shift_K) * half_K - offset_K

    def forward(self, z_K: Tensor) -> tuple[Tensor, Tensor]:
        """Gives (quantised [..., K] in [-1, 1] with straight-through gradient, codes int64 [...])."""
        rounded_K = round_straight_through(self.bound(z_K.float()))
        quantised_K = rounded_K / (self.levels_K // 2)
        return quantised_K, self.to_code(quantised_K)

    def to_code(self, quantised_K: Tensor) -> Tensor:
        """[..., K] quantised values -> int64 code numbers [...]."""
        half_K = self.levels_K // 2
        digits_K = (quantised_K.detach() * half_K).round().long() + half_K
        return (digits_K * self.strides_K).sum(-1)

    def to_values(self, codes: Tensor) -> Tensor:
        """int64 code numbers [...] -> their quantised values, float32 [..., K]; the inverse of `to_code`."""
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.num_codes:
            found = f"{int(codes.min())}..{int(codes.max())}"
            raise ValueError(f"codes must be in 0..{self.num_codes - 1}, got {found}")
        half_K = self.levels_K // 2
        digits_K = (codes.unsqueeze(-1) // self.strides_K) % self.levels_K
        return (digits_K - half_K).float() / half_K


def code_rows(levels: tuple[int, ...], width: int, generator: torch.Generator) -> Tensor:
    """Embedding rows to begin with for the codes of `FSQ(levels)`, of size about 1, float32 [codes, width].

    Codes that share entries begin alike, the more so the nearer their entries are, as they paint alike: what is learned
    of one code then holds for its neighbours from the first step on. A fifth of the variance is each row's own.
    """
    values_CK = FSQ(levels).to_values(torch.arange(math.prod(levels)))
    rows_CD = torch.zeros(len(values_CK), width)
    for value_C, count in zip(values_CK.T, levels, strict=True):
        slope_D = torch.randn(width, generator=generator)
        own_LD = torch.randn(count, width, generator=generator)
        level_C = value_C.unique(return_inverse=True)[1]
        rows_CD += 2 * value_C[:, None] * slope_D + own_LD[level_C]
    own_CD = torch.randn(rows_CD.shape, generator=generator)
    return math.sqrt(SHARED) * rows_CD / rows_CD.std() + math.sqrt(1 - SHARED) * own_CD


@torch.no_grad()
def init_code_rows(table_VD: Tensor, first: int, levels: tuple[int, ...], seed: int) -> None:
    """Let the rows of an embedding table from `first` on begin as `code_rows`, at the size of the other rows."""
    rows_CD = code_rows(levels, table_VD.shape[1], torch.Generator().manual_seed(seed))
    table_VD[first : first + len(rows_CD)] = table_VD[:first].float().std() * rows_CD.to(table_VD.device)
