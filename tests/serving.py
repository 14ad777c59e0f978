"""A real server on localhost in a thread of the test process, with the suite's tiny model behind it."""

from __future__ import annotations

import asyncio
import copy
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import uvicorn

import castor
from castor.content import Message, Part
from castor.engine.model import Model
from castor.models.codec import ImageCodec
from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.server.app import create_app
from castor.server.config import ServerConfig
from castor.server.connections import PatientUpTo
from castor.server.keys import Keys
from castor.tokens.render import Renderer

SAMPLES = Path(castor.__file__).parent / "samples"


class Served:
    """A running server: its address, its application and the model that it answers with."""

    def __init__(self, app: Any, model: Model) -> None:
        self.app, self.model = app, model
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        config = uvicorn.Config(app, http=PatientUpTo, log_level="error", timeout_graceful_shutdown=5, lifespan="on")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(
            target=lambda: asyncio.run(self.server.serve(sockets=[self.socket])), name="test-server", daemon=True
        )

    @property
    def service(self) -> Any:
        return self.app.state.service


def new_model(config: ModelConfig, renderer: Renderer, codec: ImageCodec | None) -> Model:
    """A tiny untrained model with a renderer of its own, whose limits a server may set."""
    return Model(Decoder(config).init_weights(0), copy.copy(renderer), codec)


@contextmanager
def serving(model: Model, keys: tuple[str, ...] = (), **settings: Any) -> Iterator[Served]:
    """A server for as long as the block runs; the model is called "tiny"."""
    config = ServerConfig(**{"name": "tiny", "aliases": ("local-gemini", "Org/Tiny:3b"), "max_tokens": 12, **settings})
    with running(Served(create_app(model, config, Keys(keys)), model)) as served:
        yield served


@contextmanager
def running(served: Served) -> Iterator[Served]:
    """A server of any application for as long as the block runs."""
    served.thread.start()
    while not served.server.started:
        assert served.thread.is_alive(), "the server ended at its start"
        threading.Event().wait(0.02)
    try:
        yield served
    finally:
        served.server.should_exit = True
        served.thread.join(20)
        assert not served.thread.is_alive()


def text_only(served: Served, *messages: Message, **sampling: Any) -> Message:
    """The model's own answer, asked without a server and with pictures forbidden."""
    model = served.model
    codec, model.codec = model.codec, None
    try:
        return model.generate([*messages], **{"max_tokens": 12, **sampling})
    finally:
        model.codec = codec


def sample(name: str) -> bytes:
    """One of the files that the package ships."""
    return (SAMPLES / name).read_bytes()


def wait_until(is_so: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something that other threads do; an AssertionError where it does not come."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def scripted(model: Model) -> Iterator[Callable[..., None]]:
    """Gives what makes the model say these parts next, in the plain step: an untrained one would say anything."""
    decoder, renderer = model.decoder, model.renderer

    def script(*parts: Part) -> None:
        sequence = renderer.encode([Message.user("x"), Message("model", parts)])
        ids = iter(sequence.ids_T[sequence.is_target_T].tolist())

        def project(hidden_BD: torch.Tensor) -> torch.Tensor:
            logits_BV = torch.full((len(hidden_BD), renderer.space.vocab_size), -30.0)
            logits_BV[:, next(ids, renderer.stop_id)] = 30.0
            return logits_BV

        decoder.project = project

    yield script
    decoder.__dict__.pop("project", None)
