"""The decoder: text, picture patches and audio frames in one stream, causal or fully bidirectional.

A forward has three parts, so that the heavy ones can be compiled: `embed` (sizes vary with the media),
`context` (masks and rotary tables, once per batch) and `run` (the layers); the last two have static shapes.
Parameter names are those of published Gemma 4 checkpoints without the leading "model."; per-layer inputs have their
own level, as in EmbeddingGemma 2 (`load.py` translates).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from castor.models.audio_tower import AudioTower, AudioTowerConfig
from castor.models.config import ModelConfig
from castor.models.embedders import MediaProjection, PatchEmbedder
from castor.models.spans import clip_numbers
from castor.models.stems import ConvFrameEmbedder, ConvPatchEmbedder
from castor.models.text_config import FULL, SLIDING, TextConfig
from castor.models.vector_adapters import VectorAdapters, hidden_with, tensors_like
from castor.models.vision_tower import VisionTower, VisionTowerConfig
from castor.nn.attention import Attention, KeysValues, LayerContext, TokenPlaces, layer_mask
from castor.nn.block import Block, FeedForward
from castor.nn.cache import KVCache
from castor.nn.conv import MatrixConv
from castor.nn.experts import Experts, Router
from castor.nn.flex import uses_flex
from castor.nn.norm import RMSNorm
from castor.nn.packed import PackedEmbedding
from castor.nn.per_layer import PerLayerGate, PerLayerInputs
from castor.nn.pool import mean_by_document
from castor.nn.rope import inverse_frequencies, rope_table
from castor.tokens.batch import Batch


class LanguageModel(nn.Module):
    """Token embedding, layers and final norm; where the config has them, per-layer inputs and an embedding's head."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        dim, eps, width = config.hidden_size, config.rms_norm_eps, config.hidden_size_per_layer_input
        self.embed_tokens = nn.Embedding(config.vocab_size, dim)
        self.layers = nn.ModuleList(_block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(dim, eps)
        self.ple, self.embedding_projection = None, None
        if width:
            self.ple = PerLayerInputs(dim, config.num_hidden_layers, width, config.vocab_size_per_layer_input, eps)
        if config.embedding_dim is not None:
            self.embedding_projection = nn.Linear(dim, config.embedding_dim, bias=False)


def _block(config: TextConfig, layer: int) -> Block:
    assert config.layer_types is not None
    kind, shares_keys = config.layer_types[layer], layer >= config.num_own_layers
    dim, eps, width = config.hidden_size, config.rms_norm_eps, config.hidden_size_per_layer_input
    attention = Attention(
        dim,
        config.num_attention_heads,
        config.kv_heads(kind),
        config.kind_head_dim(kind),
        eps=eps,
        bias=config.attention_bias,
        key_is_value=kind == FULL and config.attention_k_eq_v,
        shares_keys=shares_keys,
    )
    is_double = shares_keys and config.use_double_wide_mlp
    feed_forward = FeedForward(dim, config.intermediate_size * (2 if is_double else 1))
    router, experts = None, None
    if config.enable_moe_block:
        assert config.num_experts and config.top_k_experts and config.moe_intermediate_size
        router = Router(dim, config.num_experts, config.top_k_experts, eps)
        experts = Experts(dim, config.moe_intermediate_size, config.num_experts)
    per_layer = PerLayerGate(dim, width, eps) if width else None
    return Block(attention, feed_forward, dim, eps, router=router, experts=experts, per_layer=per_layer)


def _without_weights(config: ModelConfig) -> Decoder:
    """A decoder of the same shape to which tensors are lent."""
    with torch.device("meta"):
        return Decoder(replace(config, text=replace(config.text, embedding_rank=None)))


class Decoder(nn.Module):
    """Batch -> logits. Parameters come uninitialised for training: call `init_weights`, or load them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        text, vision, audio = config.text, config.vision, config.audio
        self.language_model = LanguageModel(text)
        self.vision_tower, self.vision_embedder, self.embed_vision = None, None, None
        self.audio_tower, self.embed_audio = None, None
        if isinstance(vision, VisionTowerConfig):
            self.vision_tower = VisionTower(vision)
            self.embed_vision = MediaProjection(vision.output_dim, text.hidden_size, vision.rms_norm_eps)
        elif vision is not None and vision.stem_channels:
            self.vision_embedder = ConvPatchEmbedder(vision, text.hidden_size)
        elif vision is not None:
            self.vision_embedder = PatchEmbedder(vision.patch_dim, vision.mm_embed_dim, vision.mm_posemb_size)
            self.embed_vision = MediaProjection(vision.mm_embed_dim, text.hidden_size, vision.rms_norm_eps)
        if isinstance(audio, AudioTowerConfig):
            self.audio_tower = AudioTower(audio)
            self.embed_audio = MediaProjection(audio.output_dim, text.hidden_size, audio.rms_norm_eps)
        elif audio is not None and audio.stem_channels:
            self.embed_audio = ConvFrameEmbedder(audio, text.hidden_size)
        elif audio is not None:
            self.embed_audio = MediaProjection(audio.audio_embed_dim, text.hidden_size, audio.rms_norm_eps)
        rank = text.embedding_rank
        self.vector_adapters = None if rank is None else VectorAdapters(self, rank)
        # In a tuple, as it is no part of this one.
        self._twin: tuple[Decoder, ...] = () if rank is None else (_without_weights(config),)
        self.flex = uses_flex()  # whether attention goes through FlexAttention
        self._uncached = self._run_uncached

    def forward(self, batch: Batch, cache: KVCache | None = None) -> torch.Tensor:
        """Logits [B, T, V] of the token after each; with a cache, the batch continues what it holds."""
        return self.project(self.hidden(batch, cache))

    def hidden(self, batch: Batch, cache: KVCache | None = None, *, bidirectional: bool = False) -> torch.Tensor:
        """The stream after the final norm, [B, T, D]; `bidirectional` or an encoder: every token sees both ways."""
        x_BTD, ids_BT, places = self.embed(batch), self._text_ids(batch), self.places(batch)
        bidirectional = bidirectional or self.config.text.sees_both_ways
        if cache is None:
            return self._uncached(x_BTD, ids_BT, places, bidirectional)
        return self.run(x_BTD, ids_BT, self.context(places, cache.extend(places), bidirectional), cache)

    def _run_uncached(
        self, x_BTD: torch.Tensor, ids_BT: torch.Tensor, places: TokenPlaces, bidirectional: bool
    ) -> torch.Tensor:
        return self.run(x_BTD, ids_BT, self.context(places, places, bidirectional))

    def vectors(self, batch: Batch, *, unit: bool = True) -> torch.Tensor:
        """One vector for every document, float32 [number of documents, E], of length 1 if `unit`.

        The mean of its tokens' vectors, all of which see both ways. Documents come row by row, and in a row by their
        number. ValueError where the model has no head for it.
        """
        mean_YE = mean_by_document(self.project_vectors(self._hidden_for_vectors(batch)), batch.doc_BT)
        return F.normalize(mean_YE, dim=-1) if unit else mean_YE

    def _hidden_for_vectors(self, batch: Batch) -> torch.Tensor:
        """`hidden`, seen both ways, with the changes that hold where vectors are made."""
        if self.vector_adapters is None:
            return self.hidden(batch, bidirectional=True)
        twin = self._twin[0]
        own = tensors_like(twin, self)
        return hidden_with(own | self.vector_adapters.changed(own), twin, twin.hidden, batch)

    def project_vectors(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """Hidden vectors -> what the mean over a document is taken of, [B, T, E]."""
        if self.language_model.embedding_projection is None:
            raise ValueError("embedding_dim=None: this model has no head that makes vectors of documents")
        return self.language_model.embedding_projection(hidden_BTD)

    def project(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """Logits of hidden vectors, soft-capped where the config says so; ValueError for a model that only embeds."""
        if self.config.family == "embedding_gemma2":
            raise ValueError("embedding_gemma2 models have no logits: they make vectors of documents")
        table = self.language_model.embed_tokens
        if isinstance(table, PackedEmbedding):
            logits_BTV = table.project(hidden_BTD)
        else:
            logits_BTV = F.linear(hidden_BTD, table.weight)
        cap = self.config.text.final_logit_softcapping
        return logits_BTV if cap is None else torch.tanh(logits_BTV / cap) * cap

    @property
    def output_weight_VD(self) -> torch.Tensor:
        """The output projection, which is the token embedding; where it is packed, unpacked for the asking."""
        return self.language_model.embed_tokens.weight

    @property
    def dtype(self) -> torch.dtype:
        """The type that the layers compute in."""
        return self._norm_weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._norm_weight.device

    @property
    def _norm_weight(self) -> torch.Tensor:
        weight = self.language_model.norm.weight  # which is never packed
        assert weight is not None
        return weight

    def embed(self, batch: Batch) -> torch.Tensor:
        """The stream that enters the layers, [B, T, D]: scaled token embeddings, media in their slots."""
        table = self.language_model.embed_tokens
        scale = torch.tensor(math.sqrt(self.config.text.hidden_size), dtype=self.dtype, device=self.device)
        is_packed = isinstance(table, PackedEmbedding)
        x_BTD = table(batch.ids_BT).to(self.dtype) if is_packed else F.embedding(batch.ids_BT, table.weight)
        x_BTD = x_BTD * scale
        flat_XD = x_BTD.flatten(0, 1)
        if len(batch.patch_at_P):
            flat_XD = flat_XD.index_copy(0, batch.patch_at_P, self._embed_patches(batch).to(x_BTD.dtype))
        if len(batch.frame_at_S):
            flat_XD = flat_XD.index_copy(0, batch.frame_at_S, self._embed_frames(batch).to(x_BTD.dtype))
        return flat_XD.view_as(x_BTD)

    def _text_ids(self, batch: Batch) -> torch.Tensor:
        """The ids by which per-layer inputs are looked up, [B, T]: that of padding where a medium is."""
        pad = self.config.text.pad_token_id
        if self.config.text.vocab_size_per_layer_input is None or pad is None:
            return batch.ids_BT
        at_X = torch.cat([batch.patch_at_P, batch.frame_at_S])
        return batch.ids_BT.flatten().index_fill(0, at_X, pad).view_as(batch.ids_BT)

    def _embed_patches(self, batch: Batch) -> torch.Tensor:
        vision = self.config.vision
        embedder = self.vision_embedder if self.vision_tower is None else self.vision_tower
        if vision is None or embedder is None:
            raise ValueError(f"{len(batch.patch_at_P)} image patches for a model without vision")
        if batch.patches_PC.shape != (len(batch.patch_at_P), vision.patch_dim):
            raise ValueError(
                f"patches of shape {list(batch.patches_PC.shape)} for {len(batch.patch_at_P)} places; "
                f"the model takes {vision.patch_dim} numbers a patch"
            )
        patches_PC = batch.patches_PC
        if patches_PC.dtype == torch.uint8:  # bytes travel four times as fast as numbers
            patches_PC = patches_PC.float() / 255.0
        patches_PF = embedder(patches_PC, batch.patch_xy_P2)
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
        if self.audio_tower is None:
            return self.embed_audio(batch.frames_SF)
        clip_S = clip_numbers(batch.frame_at_S) if batch.clip_S is None else batch.clip_S
        return self.embed_audio(self.audio_tower(batch.frames_SF, clip_S))

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
                layer_mask(queries, keys, window=window, bidirectional=bidirectional, flex=self.flex),
                *rope_table(queries.position_BT, self.frequencies(kind)),
            )
            for kind, window in ((SLIDING, self.config.text.sliding_window), (FULL, None))
        )
        return sliding, full

    def frequencies(self, kind: str) -> torch.Tensor:
        """Radians per position of each rotated pair in layers of this kind, float32 [H / 2]."""
        rope = self.config.text.rope_parameters[kind]
        share = rope.get("partial_rotary_factor", 1.0) if rope["rope_type"] == "proportional" else 1.0
        return inverse_frequencies(self.config.text.kind_head_dim(kind), rope["rope_theta"], share)

    def run(
        self,
        x_BTD: torch.Tensor,
        ids_BT: torch.Tensor,
        context: tuple[LayerContext, LayerContext],
        cache: KVCache | None = None,
    ) -> torch.Tensor:
        """All layers and the final norm: [B, T, D] -> [B, T, D]; ids [B, T] are for per-layer inputs."""
        sliding, full = context
        model = self.language_model
        seen: dict[str, KeysValues] = {}
        own_BTLF = None if model.ple is None else model.ple(x_BTD, ids_BT)
        for layer, kind in enumerate(self.config.text.layer_types or ()):
            x_BTD, seen[kind] = model.layers[layer](
                x_BTD,
                full if kind == FULL else sliding,
                layer,
                cache,
                shared=seen.get(kind),
                per_layer_BTF=None if own_BTLF is None else own_BTLF[:, :, layer],
            )
        return model.norm(x_BTD)

    def compile_layers(self) -> Decoder:
        """Compile masks and layers for batches without a cache, one graph per shape and type; gives self."""
        self._uncached = torch.compile(self._run_uncached, dynamic=False, fullgraph=True)
        for twin in self._twin:
            twin.compile_layers()
        return self

    def check_length(self, num_tokens: int, num_more: int = 0) -> None:
        """ValueError where a sequence and the answer to come are longer than the model is made for."""
        most = self.config.text.max_position_embeddings
        if num_tokens + num_more > most:
            answer = f" and an answer of up to {num_more}" if num_more else ""
            raise ValueError(f"{num_tokens} tokens{answer} are more than the {most} that this model takes")

    def new_cache(self, batch_size: int, max_tokens: int) -> KVCache:
        """An empty cache on the model's device and in its type; ValueError for an encoder, whose past would change."""
        if self.config.text.sees_both_ways:
            raise ValueError("use_bidirectional_attention='all': what comes later changes every token, nothing is kept")
        return KVCache(self.config, batch_size, max_tokens, self.device, self.dtype)

    @torch.no_grad()
    def init_weights(self, seed: int = 0, scale: float = 1.0) -> Decoder:
        """Draw weights to train from, all matrices and tables `scale` times what follows; gives self.

        Every projection keeps the size of its input (std = fan-in ** -0.5), so that at the start the stream,
        the gates and the logits have size about 1. The norms of queries and keys start at head_dim ** -0.25
        each: their dot products, which nothing divides later, then have size 1 too.
        """
        generator = torch.Generator(self.device).manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0.0, module.in_features**-0.5, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0.0, module.embedding_dim**-0.5, generator=generator)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, MatrixConv | Experts):
                module.reset_parameters(generator)
            elif isinstance(module, PatchEmbedder | ConvPatchEmbedder):
                module.pos_embedding.normal_(0.0, 0.3, generator=generator)  # beside patches of size 1
            elif isinstance(module, RMSNorm) and module.weight is not None:
                module.weight.fill_(1.0)
            elif isinstance(module, Router):
                module.scale.fill_(1.0)
                module.per_expert_scale.fill_(1.0)
            elif isinstance(module, Block):
                module.get_buffer("layer_scalar").fill_(1.0)
        for module in self.modules():
            if isinstance(module, Attention):
                for norm in (module.q_norm, module.k_norm):
                    if norm is not None and norm.weight is not None:
                        norm.weight.fill_(module.head_dim**-0.25)
            elif isinstance(module, PerLayerInputs) and module.embed_tokens_per_layer is not None:
                # A row is cut into one vector a layer, each of which is scaled up on its own.
                module.embed_tokens_per_layer.weight.normal_(0.0, module.width**-0.5, generator=generator)
            elif isinstance(module, VisionTower | AudioTower | VectorAdapters):
                module.reset_parameters(generator)
        for parameter in self.parameters() if scale != 1.0 else ():
            if parameter.ndim > 1:
                parameter.mul_(scale)
        return self
