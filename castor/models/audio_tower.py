"""A Conformer over log-mel in front of the decoder: sound to soft tokens, 40 ms each.

The tower of published Gemma 4 and EmbeddingGemma 2, parameter names included, after the Universal Speech Model (Zhang
et al. 2023). Clips lie end to end, one token a row, and nothing is padded: what a token hears depends on how far away
the other is and on whether it is of the same clip, never on where in the batch its clip lies. Leaves out streaming.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from castor.config import from_foreign, to_dict
from castor.nn.clipped import ClippedLinear
from castor.nn.norm import RMSNorm

COLUMNS = 4  # log-mel columns of 10 ms in one token: two convolutions that each halve the rate
ONLY: dict[str, tuple[Any, ...]] = {"hidden_act": ("silu",)}


@dataclass(frozen=True, kw_only=True)
class AudioTowerConfig:
    """The tower, in the field names of Hugging Face's `gemma4_audio`."""

    hidden_size: int = 1024
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    subsampling_conv_channels: tuple[int, int] = (128, 32)  # the first is the number of mel bands, too
    conv_kernel_size: int = 5  # tokens that the light convolution hears, the last one its own
    residual_weight: float = 0.5  # of each of the two feed-forwards
    attention_chunk_size: int = 12
    attention_context_left: int = 13  # a token hears itself and `attention_context_left` - 2 before it
    attention_context_right: int = 0  # and `attention_context_right` - 1 after it
    attention_logit_cap: float = 50.0
    attention_invalid_logits_value: float = -1e9
    use_clipped_linears: bool = True
    gradient_clipping: float = 1e10
    output_proj_dims: int = 1536
    rms_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.hidden_size % 2 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be even and divide into {self.num_attention_heads} heads"
            )
        if len(self.subsampling_conv_channels) != 2 or self.num_mels % COLUMNS:
            raise ValueError(
                f"subsampling_conv_channels={list(self.subsampling_conv_channels)} must be two numbers, "
                f"the first a multiple of {COLUMNS}"
            )
        if self.attention_context_left < 2 or self.attention_context_right < 0:
            raise ValueError(
                f"attention_context_left={self.attention_context_left} and "
                f"attention_context_right={self.attention_context_right} must be at least 2 and 0"
            )

    @property
    def num_mels(self) -> int:
        """Mel bands of the input."""
        return self.subsampling_conv_channels[0]

    @property
    def audio_embed_dim(self) -> int:
        """Numbers in one token's frame: its log-mel columns end to end."""
        return COLUMNS * self.num_mels

    @property
    def output_dim(self) -> int:
        """Numbers in a soft token."""
        return self.output_proj_dims

    @property
    def num_before(self) -> int:
        """Positions before a chunk that its attention looks at."""
        return self.attention_context_left - 1

    @property
    def context_size(self) -> int:
        """Positions that the attention of one chunk looks at."""
        return self.attention_chunk_size + self.num_before + self.attention_context_right

    @staticmethod
    def from_hf(values: Mapping[str, Any]) -> AudioTowerConfig:
        """The `audio_config` of a `config.json`; ValueError names a field that asks for what is not implemented."""
        return from_foreign(AudioTowerConfig, values, ONLY, "audio_config.")

    def to_hf(self) -> dict[str, Any]:
        """The `audio_config` of a `config.json`."""
        return {"model_type": "gemma4_audio", "hidden_act": "silu"} | to_dict(self)


class _Reach(NamedTuple):
    """Whom each token hears, the same for all layers.

    is_heard_CQX: bool, whether query Q of chunk C hears key X of its context; relative_RD: the vectors of relative
    positions; relative_at_QX: which of them a pair of query and key has, R for none; line_S: the places of tokens on a
    line where silence separates clips.
    """

    is_heard_CQX: torch.Tensor
    relative_RD: torch.Tensor
    relative_at_QX: torch.Tensor
    line_S: torch.Tensor


class AudioTower(nn.Module):
    """Log-mel frames [S, 4 * num_mels], one row a token, and the clip of each [S] -> soft tokens [S, F].

    The rows of a clip follow one another. Columns at the end of a clip's last row that are zero throughout are filling
    and not heard (no column of `castor.tokens.audio.usm_frames` is zero throughout).
    """

    def __init__(self, config: AudioTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.subsample_conv_projection = _Subsampling(config)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.output_proj = nn.Linear(config.hidden_size, config.output_proj_dims)

    def forward(self, frames_SF: torch.Tensor, clip_S: torch.Tensor) -> torch.Tensor:
        if frames_SF.shape != (len(clip_S), self.config.audio_embed_dim):
            wanted = [len(clip_S), self.config.audio_embed_dim]
            raise ValueError(f"log-mel frames of shape {list(frames_SF.shape)}, not {wanted}")
        clip_S = torch.unique_consecutive(clip_S, return_inverse=True)[1]
        x_SD = self.subsample_conv_projection(frames_SF, clip_S)
        reach = _reach(clip_S, self.config, x_SD.dtype)
        for layer in self.layers:
            x_SD = layer(x_SD, reach)
        return self.output_proj(x_SD)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw weights to train from."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0.0, fan_in**-0.5, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, RMSNorm | nn.LayerNorm):
                assert module.weight is not None
                module.weight.fill_(1.0)
            elif isinstance(module, _Attention):
                module.per_dim_scale.zero_()
        for module in self.modules():
            if isinstance(module, ClippedLinear):
                module.reset_parameters(generator)


def _reach(clip_S: torch.Tensor, config: AudioTowerConfig, dtype: torch.dtype) -> _Reach:
    device, chunk, context = clip_S.device, config.attention_chunk_size, config.context_size
    after = config.attention_context_right
    distance_QX = torch.arange(chunk, device=device)[:, None] - torch.arange(context, device=device) + config.num_before
    is_near_QX = ((distance_QX >= 0) & (distance_QX < config.num_before)) | ((distance_QX < 0) & (-distance_QX < after))
    query_clip_CQ = F.pad(clip_S, (0, -len(clip_S) % chunk), value=-1).view(-1, chunk)
    key_clip_CX = _contexts(clip_S, config, fill=-1)
    is_heard_CQX = is_near_QX & (query_clip_CQ[:, :, None] == key_clip_CX[:, None, :])
    relative_RD = _sinusoids(torch.arange(context // 2, -1, -1, device=device), config.hidden_size)
    nth_QX = config.num_before - distance_QX
    relative_at_QX = torch.where((nth_QX >= 0) & (nth_QX < len(relative_RD)), nth_QX, len(relative_RD))
    line_S = torch.arange(len(clip_S), device=device) + (config.conv_kernel_size - 1) * (clip_S + 1)
    return _Reach(is_heard_CQX, relative_RD.to(dtype), relative_at_QX, line_S)


def _sinusoids(position_R: torch.Tensor, dim: int) -> torch.Tensor:
    """Sines and then cosines of positions at dim / 2 speeds from 1 to 1/10,000, [R, dim] (Vaswani et al. 2017)."""
    num_speeds = dim // 2
    step = math.log(10_000.0) / max(num_speeds - 1, 1)
    speed = torch.exp(torch.arange(num_speeds, device=position_R.device) * -step)
    angle = position_R[:, None] * speed
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def _contexts(x_S: torch.Tensor, config: AudioTowerConfig, fill: float = 0.0) -> torch.Tensor:
    """[S, ...] -> [C, X, ...]: what each chunk looks at, overlapping, `fill` before the start and after the end."""
    sides = (0, 0) * (x_S.ndim - 1) + (
        config.num_before,
        config.attention_context_right + config.attention_chunk_size - 1,
    )
    windows = F.pad(x_S, sides, value=fill).unfold(0, config.context_size, config.attention_chunk_size)
    return windows.movedim(-1, 1)


class _Halving(nn.Module):
    """A convolution that halves time and bands, norm over channels, ReLU; [1, C, X, M] -> [1, C', X / 2, M / 2]."""

    def __init__(self, num_in: int, num_out: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_in, num_out, 3, stride=2, padding=1, bias=False)
        self.norm = nn.LayerNorm(num_out, eps=eps, bias=False)

    def forward(self, x_1CXM: torch.Tensor) -> torch.Tensor:
        x_1CXM = self.conv(x_1CXM.to(self.conv.weight.dtype))
        return F.relu(self.norm(x_1CXM.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class _Subsampling(nn.Module):
    """Log-mel frames [S, F] and their clips [S], from 0 -> [S, D], a quarter of the rate."""

    def __init__(self, config: AudioTowerConfig) -> None:
        super().__init__()
        first, second = config.subsampling_conv_channels
        self.num_mels = config.num_mels
        self.layer0 = _Halving(1, first, config.rms_norm_eps)
        self.layer1 = _Halving(first, second, config.rms_norm_eps)
        self.input_proj_linear = nn.Linear(self.num_mels // COLUMNS * second, config.hidden_size, bias=False)

    def forward(self, frames_SF: torch.Tensor, clip_S: torch.Tensor) -> torch.Tensor:
        place_S = torch.arange(len(clip_S), device=clip_S.device) + clip_S + 1  # an empty token before each clip
        num_places = int(place_S[-1]) + 1
        line_XF = frames_SF.new_zeros(num_places, frames_SF.shape[1]).index_copy(0, place_S, frames_SF)
        is_sound_X4 = clip_S.new_zeros(num_places, COLUMNS, dtype=torch.bool)
        is_sound_X4 = is_sound_X4.index_copy(0, place_S, _is_sound(frames_SF, clip_S)).flatten()
        x_1CXM = line_XF.view(1, 1, -1, self.num_mels)
        for layer, step in ((self.layer0, 1), (self.layer1, 2)):  # between clips it stays silent after each layer
            x_1CXM = layer(x_1CXM * is_sound_X4[::step, None])
        return self.input_proj_linear(x_1CXM[0].permute(1, 2, 0).flatten(1)[place_S])


def _is_sound(frames_SF: torch.Tensor, clip_S: torch.Tensor) -> torch.Tensor:
    """bool [S, 4], False for columns that fill up a clip's last row."""
    is_zero_S4 = (frames_SF.unflatten(1, (COLUMNS, -1)) == 0).all(-1)
    is_tail_S4 = is_zero_S4.flip(1).long().cumprod(1).flip(1).bool()
    is_tail_S4[:, 0] = False  # a token is there because its first column is
    is_tail_S4[:-1] &= (clip_S[1:] != clip_S[:-1])[:, None]
    return ~is_tail_S4


class _Layer(nn.Module):
    """Half a feed-forward, attention, light convolution, half a feed-forward, norm (Gulati et al. 2020)."""

    def __init__(self, config: AudioTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.feed_forward1 = _FeedForward(config)
        self.feed_forward2 = _FeedForward(config)
        self.self_attn = _Attention(config)
        self.lconv1d = _LightConv(config)
        self.norm_pre_attn = RMSNorm(config.hidden_size)
        self.norm_post_attn = RMSNorm(config.hidden_size)
        self.norm_out = RMSNorm(config.hidden_size)

    def forward(self, x_SD: torch.Tensor, reach: _Reach) -> torch.Tensor:
        x_SD = self.feed_forward1(x_SD)
        heard_SD = self.self_attn(self.norm_pre_attn(_bounded(x_SD, self.config)), reach)
        x_SD = x_SD + self.norm_post_attn(_bounded(heard_SD, self.config))
        x_SD = self.feed_forward2(self.lconv1d(x_SD, reach))
        return self.norm_out(_bounded(x_SD, self.config))


def _bounded(x_D: torch.Tensor, config: AudioTowerConfig) -> torch.Tensor:
    bound = min(config.gradient_clipping, torch.finfo(x_D.dtype).max)
    return x_D.clamp(-bound, bound)


class _FeedForward(nn.Module):
    """x + residual_weight * norm(down(silu(up(norm(x)))))."""

    def __init__(self, config: AudioTowerConfig) -> None:
        super().__init__()
        self.config = config
        dim, clipped = config.hidden_size, config.use_clipped_linears
        self.ffw_layer_1 = ClippedLinear(dim, 4 * dim, clipped=clipped)
        self.ffw_layer_2 = ClippedLinear(4 * dim, dim, clipped=clipped)
        self.pre_layer_norm = RMSNorm(dim)
        self.post_layer_norm = RMSNorm(dim)

    def forward(self, x_SD: torch.Tensor) -> torch.Tensor:
        inner_SF = F.silu(self.ffw_layer_1(self.pre_layer_norm(_bounded(x_SD, self.config))))
        moved_SD = self.post_layer_norm(_bounded(self.ffw_layer_2(inner_SF), self.config))
        return x_SD + moved_SD * self.config.residual_weight


class _LightConv(nn.Module):
    """x + linear(silu(norm(convolution(glu(linear(norm(x))))))); each channel hears its own last few tokens."""

    def __init__(self, config: AudioTowerConfig) -> None:
        super().__init__()
        self.config = config
        dim, clipped = config.hidden_size, config.use_clipped_linears
        self.linear_start = ClippedLinear(dim, 2 * dim, clipped=clipped)
        self.linear_end = ClippedLinear(dim, dim, clipped=clipped)
        self.depthwise_conv1d = nn.Conv1d(dim, dim, config.conv_kernel_size, groups=dim, bias=False)
        self.pre_layer_norm = RMSNorm(dim, config.rms_norm_eps)
        self.conv_norm = RMSNorm(dim, config.rms_norm_eps)

    def forward(self, x_SD: torch.Tensor, reach: _Reach) -> torch.Tensor:
        gated_SD = F.glu(self.linear_start(self.pre_layer_norm(x_SD)), dim=-1)
        line_XD = gated_SD.new_zeros(int(reach.line_S[-1]) + 1, gated_SD.shape[1])
        line_XD = line_XD.index_copy(0, reach.line_S, gated_SD)
        mixed_DX = self.depthwise_conv1d(line_XD.T[None])[0]
        mixed_SD = mixed_DX.T[reach.line_S - (self.config.conv_kernel_size - 1)]
        mixed_SD = self.conv_norm(_bounded(mixed_SD, self.config))
        return x_SD + self.linear_end(F.silu(mixed_SD))


class _Attention(nn.Module):
    """Local attention, a chunk of queries at a time, with relative positions (Dai et al. 2019) and capped scores."""

    def __init__(self, config: AudioTowerConfig) -> None:
        super().__init__()
        self.config = config
        dim, clipped = config.hidden_size, config.use_clipped_linears
        self.head_dim = dim // config.num_attention_heads
        self.q_proj = ClippedLinear(dim, dim, clipped=clipped)
        self.k_proj = ClippedLinear(dim, dim, clipped=clipped)
        self.v_proj = ClippedLinear(dim, dim, clipped=clipped)
        self.post = ClippedLinear(dim, dim, clipped=clipped)
        self.relative_k_proj = nn.Linear(dim, dim, bias=False)
        self.per_dim_scale = nn.Parameter(torch.zeros(self.head_dim))

    def forward(self, x_SD: torch.Tensor, reach: _Reach) -> torch.Tensor:
        heads = (len(x_SD), -1, self.head_dim)
        chunk, cap = self.config.attention_chunk_size, self.config.attention_logit_cap
        scale_H = F.softplus(self.per_dim_scale.float()) * (self.head_dim**-0.5 / math.log(2))
        query_SNH = self.q_proj(x_SD).float().view(heads) * scale_H
        key_SNH = self.k_proj(x_SD).float().view(heads) * (math.log(1 + math.e) / math.log(2))
        value_SNH = self.v_proj(x_SD).float().view(heads)
        query_CQNH = F.pad(query_SNH, (0, 0, 0, 0, 0, -len(x_SD) % chunk)).unflatten(0, (-1, chunk))
        query_CNQH = query_CQNH.transpose(1, 2)
        key_CNXH, value_CNXH = (_contexts(part, self.config).transpose(1, 2) for part in (key_SNH, value_SNH))
        score_CNQX = query_CNQH @ key_CNXH.transpose(2, 3) + self._nearness(query_CNQH, reach)
        score_CNQX = torch.tanh(score_CNQX / cap) * cap
        is_heard_C1QX = reach.is_heard_CQX[:, None]
        score_CNQX = score_CNQX.masked_fill(~is_heard_C1QX, self.config.attention_invalid_logits_value)
        out_CNQH = score_CNQX.softmax(dim=-1) @ value_CNXH
        out_SD = out_CNQH.transpose(1, 2).flatten(0, 1).flatten(1)[: len(x_SD)]
        return self.post(out_SD.to(x_SD.dtype))

    def _nearness(self, query_CNQH: torch.Tensor, reach: _Reach) -> torch.Tensor:
        """The part of the score that relative positions give, [C, N, Q, X]."""
        relative_RNH = self.relative_k_proj(reach.relative_RD).float().unflatten(-1, (-1, self.head_dim))
        score_CNQR = query_CNQH @ relative_RNH.permute(1, 2, 0)
        score_CNQR = F.pad(score_CNQR, (0, 1))  # the last for pairs without a relative position
        return score_CNQR.gather(-1, reach.relative_at_QX.expand(*score_CNQR.shape[:2], -1, -1))
