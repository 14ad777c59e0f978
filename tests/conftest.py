"""Fixtures shared by the suite: a tiny tokenizer, renderer, codec and decoder, all seeded and made in a second."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from castor.engine.model import Model
from castor.models.codec import CodecConfig, ImageCodec
from castor.models.config import AudioConfig, ModelConfig, TextConfig, VisionConfig
from castor.models.decoder import Decoder
from castor.tokens.render import RenderConfig, Renderer
from castor.tokens.space import IdSpace
from castor.tokens.text import Tokenizer, train_tokenizer


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> Iterator[None]:
    """Two test workers on two cores: more threads would only wait for each other."""
    torch.set_num_threads(1)
    yield


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """512 pieces learned from a few hundred lines."""
    words = [
        "red",
        "blue",
        "circle",
        "square",
        "how",
        "many",
        "are",
        "there",
        "红色",
        "वृत्त",
        "größer",
        "niño",
    ]
    lines = [" ".join(words[(i * k) % len(words)] for k in range(1, 9)) + f" {i}" for i in range(400)]
    return train_tokenizer(lines, vocab_size=400, num_threads=1)


@pytest.fixture(scope="session")
def codec() -> ImageCodec:
    """An untrained codec of few channels."""
    torch.manual_seed(0)
    return ImageCodec(dataclasses.replace(CodecConfig(), fine_width=8, width=16)).eval()


@pytest.fixture(scope="session")
def renderer(tokenizer: Tokenizer, codec: ImageCodec) -> Renderer:
    """A renderer with small budgets and raw sound, so that what it wrote can be read back."""
    space = IdSpace(num_text=tokenizer.vocab_size, num_codes=codec.config.num_codes)
    config = RenderConfig(
        patch_size=8, image_tokens=16, frame_tokens=4, page_tokens=16, num_frames=4, sound_every=2, audio="raw"
    )
    return Renderer(tokenizer, space, config, encode_image=codec.encode, decode_image=codec.decode)


@pytest.fixture(scope="session")
def tiny_config(renderer: Renderer) -> ModelConfig:
    """Two layers of 32."""
    text = TextConfig(
        vocab_size=renderer.space.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        global_head_dim=16,
        sliding_window=24,
        layer_types=("sliding_attention", "full_attention"),
        max_position_embeddings=2048,
    )
    vision = VisionConfig(patch_size=8, pooling_kernel_size=1, mm_embed_dim=32, mm_posemb_size=32)
    return ModelConfig(text=text, vision=vision, audio=AudioConfig(audio_embed_dim=renderer.config.frame_dim))


@pytest.fixture()
def decoder(tiny_config: ModelConfig) -> Decoder:
    """A freshly initialised tiny decoder."""
    return Decoder(tiny_config).init_weights(0)


@pytest.fixture()
def model(decoder: Decoder, renderer: Renderer, codec: ImageCodec) -> Model:
    """A tiny untrained model that can do everything, badly."""
    return Model(decoder, renderer, codec)


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, tiny_config: ModelConfig, renderer: Renderer, codec: ImageCodec) -> Any:
    """A server with a tiny untrained model behind it, by the module's SETTINGS (`serving.serving`)."""
    from serving import new_model, serving

    with serving(new_model(tiny_config, renderer, codec), **getattr(request.module, "SETTINGS", {})) as running:
        yield running


@pytest.fixture(scope="module")
def google(served: Any) -> Any:
    """Google's client of the module's server."""
    return pytest.importorskip("google.genai").Client(api_key="local", http_options={"base_url": served.url})


@pytest.fixture(scope="module")
def client(served: Any) -> Any:
    """OpenAI's client of the module's server."""
    return pytest.importorskip("openai").OpenAI(api_key="local", base_url=f"{served.url}/v1", max_retries=0)
