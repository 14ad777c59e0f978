"""A mixture of experts: a router gives every token to a few of many feed-forwards, computed as grouped products.

Tokens are sorted by expert, and one kernel multiplies each run of them with its own expert's matrix. Gemma 4's form
(26B-A4B). Leaves out a loss that balances the experts, a capacity, and experts spread over devices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from castor.nn.norm import RMSNorm
from castor.nn.packed import Packed, product


class Router(nn.Module):
    """[X, D] -> (weights float32 [X, K], experts int64 [X, K]): softmax over all, the best K shared out anew.

    Each weight is then multiplied by the learned scale of its expert.
    """

    def __init__(self, dim: int, num_experts: int, top_k: int, eps: float) -> None:
        super().__init__()
        self.top_k = top_k
        self.norm = RMSNorm(dim, eps, scaled=False)
        self.proj = nn.Linear(dim, num_experts, bias=False)
        self.scale = nn.Parameter(torch.ones(dim))
        self.per_expert_scale = nn.Parameter(torch.ones(num_experts))

    def forward(self, x_XD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores_XE = self.proj(self.norm(x_XD) * self.scale * x_XD.shape[-1] ** -0.5)
        weight_XK, expert_XK = scores_XE.float().softmax(-1).topk(self.top_k, dim=-1)
        weight_XK = weight_XK / weight_XK.sum(-1, keepdim=True)
        return weight_XK * self.per_expert_scale[expert_XK], expert_XK


class Experts(nn.Module):
    """GeGLU feed-forwards [E] in two tensors: gate and up [E, 2F, D], down [E, D, F].

    Compiled whole, it needs bfloat16 (autocast will do): the kernel compiles in no other type.
    """

    def __init__(self, dim: int, inner_dim: int, num_experts: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, 2 * inner_dim, dim))
        self.down_proj = nn.Parameter(torch.empty(num_experts, dim, inner_dim))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw weights that keep the size of what goes in."""
        for weight in (self.gate_up_proj, self.down_proj):
            weight.normal_(0.0, weight.shape[-1] ** -0.5, generator=generator)

    def forward(self, x_XD: torch.Tensor, weight_XK: torch.Tensor, expert_XK: torch.Tensor) -> torch.Tensor:
        """Each token through its K experts, summed with its weights, [X, D]."""
        expert_S = expert_XK.flatten()  # S: every token once for each of its experts
        order_S = expert_S.argsort(stable=True)
        num_E = torch.zeros(self.num_experts, dtype=torch.int32, device=x_XD.device)
        num_E = num_E.scatter_add(0, expert_S, torch.ones_like(expert_S, dtype=torch.int32))
        ends_E = num_E.cumsum(0, dtype=torch.int32)
        gate_SF, up_SF = grouped_product(x_XD[order_S // expert_XK.shape[1]], self.gate_up_proj, ends_E).chunk(2, -1)
        moved_SD = grouped_product(F.gelu(gate_SF, approximate="tanh") * up_SF, self.down_proj, ends_E)
        back_SD = torch.empty_like(moved_SD).index_copy(0, order_S, moved_SD)
        summed_XD = (back_SD.view(*expert_XK.shape, -1) * weight_XK.unsqueeze(-1)).sum(1)
        return summed_XD.to(x_XD.dtype)


def grouped_product(x_SD: torch.Tensor, weight_EFD: torch.Tensor | Packed, ends_E: torch.Tensor) -> torch.Tensor:
    """Rows up to `ends_E[e]`, from the expert before on, times the matrix of expert e, [S, F].

    In autocast's type where that is on. One kernel where there is one for this device, type and shape.
    """
    if isinstance(weight_EFD, Packed):
        return packed_grouped_product(x_SD, weight_EFD, ends_E)
    kind = x_SD.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight_EFD.dtype
    x_SD, weight_EFD = x_SD.to(dtype), weight_EFD.to(dtype)
    if has_grouped_kernel(x_SD, weight_EFD):
        return F.grouped_mm(x_SD, weight_EFD.transpose(1, 2), offs=ends_E)
    return plain_grouped_product(x_SD, weight_EFD, ends_E)


def packed_grouped_product(x_SD: torch.Tensor, weights: Packed, ends_E: torch.Tensor) -> torch.Tensor:
    """`grouped_product` of packed matrices, whose rows lie one expert behind the other."""
    codes, scales = (tensor.unflatten(0, (len(ends_E), -1)) for tensor in weights.packed)
    runs = x_SD.split(ends_E.diff(prepend=ends_E.new_zeros(1)).tolist())
    num_rows = weights.num_rows // len(ends_E)
    return torch.cat([product(run_SD, codes[e], scales[e], num_rows) for e, run_SD in enumerate(runs) if len(run_SD)])


def has_grouped_kernel(x_SD: torch.Tensor, weight_EFD: torch.Tensor) -> bool:
    """Whether PyTorch has a kernel: on CPUs and GPUs from Ampere on, rows of whole 16 bytes, bfloat16 if compiled."""
    if not hasattr(F, "grouped_mm") or (torch.compiler.is_compiling() and weight_EFD.dtype != torch.bfloat16):
        return False
    if x_SD.device.type == "cuda" and torch.cuda.get_device_capability(x_SD.device) < (8, 0):
        return False
    widths = weight_EFD.shape[1:]
    return x_SD.device.type in ("cpu", "cuda") and all(n * weight_EFD.element_size() % 16 == 0 for n in widths)


def plain_grouped_product(x_SD: torch.Tensor, weight_EFD: torch.Tensor, ends_E: torch.Tensor) -> torch.Tensor:
    """`grouped_product` as what it means: one product after the other."""
    runs = x_SD.split(ends_E.diff(prepend=ends_E.new_zeros(1)).tolist())
    return torch.cat([run_SD @ weight_FD.T for run_SD, weight_FD in zip(runs, weight_EFD, strict=True)])
