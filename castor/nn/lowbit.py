"""Linear layers whose weights are kept in four bits: packed two a byte, with one scale for every group of inputs.

For weights that are read but no longer trained. Leaves out kernels that multiply packed weights directly: a weight is
unpacked for its own product, forward and backward, and dropped again.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

Form = Literal["nf4", "int4"]
FORMS: tuple[Form, ...] = ("nf4", "int4")
GROUP = 64  # inputs that share a scale


def levels(form: Form) -> torch.Tensor:
    """The 16 values that codes 0..15 stand for, float32, ascending, the largest 1.

    "int4": -8/7, -1, -6/7, ... 1. "nf4": quantiles of a normal distribution, zero among them, as Dettmers et al. 2023
    (QLoRA, section 3 and appendix E) define them: eight steps up from the middle and seven down, the outermost where
    half a step's probability is left.
    """
    if form == "int4":
        return torch.arange(-8, 8, dtype=torch.float32) / 7
    outermost = 1 - (1 / 30 + 1 / 32) / 2
    quantile = NormalDist().inv_cdf
    up = [quantile(0.5 + (outermost - 0.5) * step / 8) for step in range(9)]
    down = [quantile(0.5 + (outermost - 0.5) * step / 7) for step in range(1, 8)]
    return torch.tensor([-value for value in reversed(down)] + up) / up[-1]


def quantise(weight_FD: torch.Tensor, form: Form = "nf4", group: int = GROUP) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes uint8 [F, ceil(D / group), group / 2], scales bfloat16 [F, ceil(D / group)]) of a float matrix.

    Each weight takes the nearest level times its group's scale. A scale is the group's largest magnitude, rounded up
    to bfloat16, so that no weight lies outside the levels: its error is at most the scale times half the widest gap.
    ValueError where a weight is not finite.
    """
    if group < 2 or group % 2:
        raise ValueError(f"group={group} must be even and at least 2")
    if not torch.isfinite(weight_FD).all():
        raise ValueError("a matrix with weights that are not finite cannot be kept in 4 bits")
    padded = F.pad(weight_FD.detach().float(), (0, -weight_FD.shape[1] % group))
    grouped_FNG = padded.view(len(weight_FD), -1, group)
    scales_FN = _rounded_up(grouped_FNG.abs().amax(-1))
    share_FNG = grouped_FNG / scales_FN.float().clamp_min(1e-38)[..., None]
    values = levels(form).to(weight_FD.device)
    codes_FNG = torch.bucketize(share_FNG, (values[1:] + values[:-1]) / 2).to(torch.uint8)
    return pack_nibbles(codes_FNG), scales_FN


def dequantise(
    codes: torch.Tensor, scales_FN: torch.Tensor, values: torch.Tensor, num_inputs: int, dtype: torch.dtype
) -> torch.Tensor:
    """The matrix [F, num_inputs] that packed codes stand for, in `dtype`; `values` are the 16 levels."""
    weight_FNG = values[unpack_nibbles(codes).int()] * scales_FN.float()[..., None]
    return weight_FNG.flatten(1)[:, :num_inputs].to(dtype)


def pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """uint8 values below 16 [..., 2n] -> bytes [..., n]: even places in the low half."""
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def unpack_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """The inverse of `pack_nibbles`."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)


def _rounded_up(values: torch.Tensor) -> torch.Tensor:
    """Floats of 0 or more as the nearest bfloat16 that is not below them."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0xFFFF) & ~0xFFFF).view(torch.float32).to(torch.bfloat16)


class LowBitLinear(nn.Module):
    """A frozen linear layer in four bits; gradients pass through to its input.

    Codes and scales are buffers outside the state dict: they are made from a checkpoint's weights, never saved.
    """

    def __init__(self, linear: nn.Linear, form: Form = "nf4", group: int = GROUP) -> None:
        super().__init__()
        self.in_features, self.out_features, self.dtype = linear.in_features, linear.out_features, linear.weight.dtype
        codes, scales_FN = quantise(linear.weight, form, group)
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scales_FN", scales_FN, persistent=False)
        self.register_buffer("values", levels(form).to(codes.device), persistent=False)
        self.bias = linear.bias

    @property
    def weight(self) -> torch.Tensor:
        """The unpacked weights [F, D], in the type of the layer they were made from."""
        return self.unpacked(self.dtype)

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        """The weights [F, D] in `dtype`."""
        buffers = (self.get_buffer(name) for name in ("codes", "scales_FN", "values"))
        return dequantise(*buffers, num_inputs=self.in_features, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        y = _Product.apply(x, self)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @property
    def num_bytes(self) -> int:
        """Memory of the weights as they are kept."""
        return sum(self.get_buffer(name).nbytes for name in ("codes", "scales_FN"))


class _Product(torch.autograd.Function):
    """x @ weight.T that keeps the packed weights for the backward pass, where plain autograd would keep them whole."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: LowBitLinear) -> torch.Tensor:
        ctx.layer = layer
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, layer.unpacked(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor, None]:
        return slope @ ctx.layer.unpacked(slope.dtype), None


def quantise_linears(model: nn.Module, form: Form = "nf4", group: int = GROUP, min_weights: int = 4096) -> list[str]:
    """Replace every linear layer of at least `min_weights` weights by a `LowBitLinear`; gives their names.

    Embedding tables, norms, convolutions and smaller layers stay as they are.
    """
    chosen = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.numel() >= min_weights
    ]
    for name in chosen:
        model.set_submodule(name, LowBitLinear(_linear(model, name), form, group))
    return chosen


def _linear(model: nn.Module, name: str) -> nn.Linear:
    module = model.get_submodule(name)
    assert isinstance(module, nn.Linear)
    return module


def weight_bytes(model: nn.Module) -> int:
    """Memory of a model's parameters and of the weights that it keeps in four bits."""
    packed = sum(module.num_bytes for module in model.modules() if isinstance(module, LowBitLinear))
    return packed + sum(parameter.nbytes for parameter in model.parameters())
