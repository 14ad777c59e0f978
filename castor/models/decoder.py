"""The decoder: text, picture patches and audio frames in one stream, causal or fully bidirectional.

A forward has three parts, so that the heavy ones can be compiled: `embed` (sizes vary with the media),
`context` (masks and rotary tables, once per batch) and `run` (the layers); the last two have static shapes.
Parameter names are those of published Gemma 4 unified checkpoints without the leading "model.".
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from castor.models.config import FULL, SLIDING, ModelConfig, TextConfig
from castor.models.embedders import MediaProjection, PatchEmbedder
from castor.models.stems import ConvFrameEmbedder, ConvPatchEmbedder
from castor.nn.attention import Attention, LayerContext, TokenPlaces, attention_mask
from castor.nn.block import Block, FeedForward
from castor.nn.cache import KVCache
from castor.nn.conv import MatrixConv
from castor.nn.norm import RMSNorm
from castor.nn.rope import inverse_frequencies, rope_table
from castor.tokens.batch import Batch


class LanguageModel(nn.Module):
    """Token embedding, layers and final norm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_block(config, kind) for kind in config.layer_types or ())
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


def _block(config: TextConfig, kind: str) -> Block:
    attention = Attention(
        config.hidden_size,
        config.num_attention_heads,
        config.kv_heads(kind),
        config.kind_head_dim(kind),
        eps=config.rms_norm_eps,
        bias=config.attention_bias,
        key_is_value=kind == FULL and config.attention_k_eq_v,
    )
    feed_forward = FeedForward(config.hidden_size, config.intermediate_size)
    return Block(attention, feed_forward, config.hidden_size, config.rms_norm_eps)


class Decoder(nn.Module):
    """Batch -> logits. Parameters come uninitialised for training: call `init_weights`, or load them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        text, vision, audio = config.text, config.vision, config.audio
        self.language_model = LanguageModel(text)
        self.vision_embedder, self.embed_vision, self.embed_audio = None, None, None
        if vision is not None and vision.stem_channels:
            self.vision_embedder = ConvPatchEmbedder(vision, text.hidden_size)
        elif vision is not None:
            self.vision_embedder = PatchEmbedder(vision.patch_dim, vision.mm_embed_dim, vision.mm_posemb_size)
            self.embed_vision = MediaProjection(vision.mm_embed_dim, text.hidden_size, vision.rms_norm_eps)
        if audio is not None and audio.stem_channels:
            self.embed_audio = ConvFrameEmbedder(audio, text.hidden_size)
        elif audio is not None:
            self.embed_audio = MediaProjection(audio.audio_embed_dim, text.hidden_size, audio.rms_norm_eps)
        self._uncached = self._run_uncached

    def forward(self, batch: Batch, cache: KVCache | None = None) -> torch.Tensor:
        """Logits [B, T, V] of the token after each; with a cache, the batch continues what it holds."""
        return self.project(self.hidden(batch, cache))

    def hidden(self, batch: Batch, cache: KVCache | None = None, *, bidirectional: bool = False) -> torch.Tensor:
        """The stream after the final norm, [B, T, D]."""
        x_BTD, places = self.embed(batch), self.places(batch)
        if cache is None:
            return self._uncached(x_BTD, places, bidirectional)
        return self.run(x_BTD, self.context(places, cache.extend(places), bidirectional), cache)

    def _run_uncached(self, x_BTD: torch.Tensor, places: TokenPlaces, bidirectional: bool) -> torch.Tensor:
        return self.run(x_BTD, self.context(places, places, bidirectional))

    def project(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """Logits of hidden vectors, soft-capped where the config says so."""
        logits_BTV = F.linear(hidden_BTD, self.output_weight_VD)
        cap = self.config.text.final_logit_softcapping
        return logits_BTV if cap is None else torch.tanh(logits_BTV / cap) * cap

    @property
    def output_weight_VD(self) -> torch.Tensor:
        """The output projection, which is the token embedding."""
        return self.language_model.embed_tokens.weight

    def embed(self, batch: Batch) -> torch.Tensor:
        """The stream that enters the layers, [B, T, D]: scaled token embeddings, media in their slots."""
        weight_VD = self.output_weight_VD
        scale = torch.tensor(math.sqrt(weight_VD.shape[1]), dtype=weight_VD.dtype, device=weight_VD.device)
        x_BTD = F.embedding(batch.ids_BT, weight_VD) * scale
        flat_XD = x_BTD.flatten(0, 1)
        if len(batch.patch_at_P):
            flat_XD = flat_XD.index_copy(0, batch.patch_at_P, self._embed_patches(batch).to(x_BTD.dtype))
        if len(batch.frame_at_S):
            flat_XD = flat_XD.index_copy(0, batch.frame_at_S, self._embed_frames(batch).to(x_BTD.dtype))
        return flat_XD.view_as(x_BTD)

    def _embed_patches(self, batch: Batch) -> torch.Tensor:
        vision = self.config.vision
        if vision is None or self.vision_embedder is None:
            raise ValueError(f"{len(batch.patch_at_P)} image patches for a model without vision")
        if batch.patches_PC.shape != (len(batch.patch_at_P), vision.patch_dim):
            raise ValueError(
                f"patches of shape {list(batch.patches_PC.shape)} for {len(batch.patch_at_P)} places; "
                f"the model takes {vision.patch_dim} numbers a patch"
            )
        patches_PC = batch.patches_PC
        if patches_PC.dtype == torch.uint8:  # bytes travel four times as fast as numbers
            patches_PC = patches_PC.float() / 255.0
        patches_PF = self.vision_embedder(patches_PC, batch.patch_xy_P2)
        return patches_PF if self.embed_vision is None else self.embed_vision(patches_PF)

    def _embed_frames(self, batch: Batch) -> torch.Tensor:
        audio = self.config.audio
        if audio is None or self.embed_audio is None:
            raise ValueError(f"{len(batch.frame_at_S)} audio frames for a model without audio")
        if batch.frames_SF.shape != (len(batch.frame_at_S), audio.audio_embed_dim):
            raise ValueError(
                f"frames of shape {list(batch.frames_SF.shape)} for {len(batch.frame_at_S)} places; "
                f"the model takes {audio.audio_embed_dim} numbers a frame"
            )
        if isinstance(self.embed_audio, ConvFrameEmbedder):
            return self.embed_audio(batch.frames_SF, batch.frame_at_S)
        return self.embed_audio(batch.frames_SF)

    def places(self, batch: Batch) -> TokenPlaces:
        """Where the batch's tokens stand; without image blocks if this model sees images causally."""
        sees_blocks = self.config.text.use_bidirectional_attention == "vision"
        block_BT = batch.block_BT if sees_blocks else torch.full_like(batch.block_BT, -1)
        return TokenPlaces(batch.doc_BT, batch.position_BT, block_BT)

    def context(
        self, queries: TokenPlaces, keys: TokenPlaces, bidirectional: bool = False
    ) -> tuple[LayerContext, LayerContext]:
        """Mask and rotary table of sliding and of full layers, made once for all of them."""
        sliding, full = (
            LayerContext(
                attention_mask(queries, keys, window=window, bidirectional=bidirectional),
                *rope_table(queries.position_BT, self._frequencies(kind)),
            )
            for kind, window in ((SLIDING, self.config.text.sliding_window), (FULL, None))
        )
        return sliding, full

    def _frequencies(self, kind: str) -> torch.Tensor:
        rope = self.config.text.rope_parameters[kind]
        share = rope.get("partial_rotary_factor", 1.0) if rope["rope_type"] == "proportional" else 1.0
        return inverse_frequencies(self.config.text.kind_head_dim(kind), rope["rope_theta"], share)

    def run(
        self, x_BTD: torch.Tensor, context: tuple[LayerContext, LayerContext], cache: KVCache | None = None
    ) -> torch.Tensor:
        """All layers and the final norm: [B, T, D] -> [B, T, D]."""
        sliding, full = context
        for layer, kind in enumerate(self.config.text.layer_types or ()):
            x_BTD = self.language_model.layers[layer](x_BTD, full if kind == FULL else sliding, layer, cache)
        return self.language_model.norm(x_BTD)

    def compile_layers(self) -> Decoder:
        """Compile masks and layers for batches without a cache, one graph per shape and type; gives self."""
        self._uncached = torch.compile(self._run_uncached, dynamic=False, fullgraph=True)
        return self

    def check_length(self, num_tokens: int, num_more: int = 0) -> None:
        """ValueError where a sequence and the answer to come are longer than the model is made for."""
        most = self.config.text.max_position_embeddings
        if num_tokens + num_more > most:
            answer = f" and an answer of up to {num_more}" if num_more else ""
            raise ValueError(f"{num_tokens} tokens{answer} are more than the {most} that this model takes")

    def new_cache(self, batch_size: int, max_tokens: int) -> KVCache:
        """An empty cache on the model's device and in its type."""
        weight = self.output_weight_VD
        return KVCache(self.config, batch_size, max_tokens, weight.device, weight.dtype)

    @torch.no_grad()
    def init_weights(self, seed: int = 0) -> Decoder:
        """Draw weights to train from; gives self.

        Every projection keeps the size of its input (std = fan-in ** -0.5), so that at the start the stream,
        the gates and the logits have size about 1. The norms of queries and keys start at head_dim ** -0.25
        each: their dot products, which nothing divides later, then have size 1 too.
        """
        device = self.output_weight_VD.device
        generator = torch.Generator(device).manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0.0, module.in_features**-0.5, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0.0, module.embedding_dim**-0.5, generator=generator)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, MatrixConv):
                module.reset_parameters(generator)
            elif isinstance(module, PatchEmbedder | ConvPatchEmbedder):
                module.pos_embedding.normal_(0.0, 0.3, generator=generator)  # beside patches of size 1
            elif isinstance(module, RMSNorm) and module.weight is not None:
                module.weight.fill_(1.0)
            elif isinstance(module, Block):
                module.get_buffer("layer_scalar").fill_(1.0)
        for module in self.modules():
            if isinstance(module, Attention):
                for norm in (module.q_norm, module.k_norm):
                    assert norm.weight is not None
                    norm.weight.fill_(module.head_dim**-0.25)
        return self
