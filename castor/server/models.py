"""The models of one server: loaded when somebody asks for one, unloaded when nobody does or another needs the room."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from castor.engine.model import Model, find_folder, load
from castor.engine.published import draws
from castor.models.load import load_config
from castor.server.answering import Answerer
from castor.server.config import ServerConfig
from castor.server.errors import ApiError
from castor.tokens.gemma import GemmaRenderer

LOADING_S = 10.0  # what a client that finds no room is told to wait


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a model can, known without its weights."""

    answers: bool = True
    vector_dim: int | None = None  # numbers in its vectors; None: it makes none
    can_draw: bool = False
    knows_tools: bool = False
    max_positions: int = 0
    num_bytes: int = 0  # of its weights in memory

    @classmethod
    def of_model(cls, model: Model) -> Facts:
        """Of one that is loaded."""
        modules = (model.decoder, *([model.codec] if model.codec is not None else []))
        return cls(
            answers=not model.decoder.config.text.sees_both_ways,
            vector_dim=model.vector_dim,
            can_draw=model.codec is not None,
            knows_tools=isinstance(model.renderer, GemmaRenderer),
            max_positions=model.decoder.config.text.max_position_embeddings,
            num_bytes=sum(p.numel() * p.element_size() for module in modules for p in module.parameters()),
        )

    @classmethod
    def of_folder(cls, folder: Path) -> Facts:
        """Of one that lies in a folder; its bytes are those of the files, twice as many where they widen to float32."""
        config = load_config(folder)
        is_ours = (folder / "castor.json").is_file() and not draws(folder)
        return cls(
            answers=not config.text.sees_both_ways,
            vector_dim=config.text.embedding_dim,
            can_draw=(folder / "codec.safetensors").is_file(),
            knows_tools=not is_ours,
            max_positions=config.text.max_position_embeddings,
            num_bytes=2 * sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        )


@dataclass(kw_only=True)
class Offer:
    """A model under its names, loaded or not."""

    names: tuple[str, ...]
    load: Callable[[], Model]
    facts: Facts
    stays: bool = False  # it is never unloaded
    at_once: bool = False  # loaded before the first request
    answerer: Answerer | None = None
    num_users: int = 0
    used_s: float = 0.0
    loading: asyncio.Task[None] | None = field(default=None, repr=False)

    @classmethod
    def of_model(cls, model: Model, names: tuple[str, ...]) -> Offer:
        """One that is in memory and stays there."""
        return cls(names=names, load=lambda: model, facts=Facts.of_model(model), stays=True, at_once=True)

    @classmethod
    def of_name(cls, model: str, names: tuple[str, ...], **options: Any) -> Offer:
        """One that `castor.load` finds and loads with these options, when it is wanted.

        ValueError where there is no such model.
        """
        folder = find_folder(model)
        return cls(names=names, load=partial(load, folder, **options), facts=Facts.of_folder(folder))


class Models:
    """All models of a server by their names. Its methods belong to one event loop."""

    def __init__(self, offers: list[Offer], config: ServerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """ValueError for a name that two have. Those that are wanted at once are loaded here."""
        self.offers, self._config, self._clock = offers, config, clock
        self._by_name = {name: offer for offer in reversed(offers) for name in reversed(offer.names)}
        self._room = asyncio.Lock()
        names = [name for offer in offers for name in offer.names]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two models are called {name!r}; give one of them another --name or --alias")
        for offer in offers:
            if offer.at_once:
                offer.answerer, offer.used_s = self._answerer(offer.load()), clock()

    def __iter__(self) -> Iterator[tuple[str, Offer]]:
        """Every name with its model, in the order in which they were given."""
        return ((name, offer) for offer in self.offers for name in offer.names)

    @property
    def answerers(self) -> list[Answerer]:
        """Those of loaded models."""
        return [offer.answerer for offer in self.offers if offer.answerer is not None]

    def find(self, name: str) -> Offer:
        """The model of that name; ApiError 404 where it is not served here."""
        offer = self._by_name.get(name.removeprefix("models/")) or self._by_name.get(name)
        if offer is None:
            known = ", ".join(name for name, _ in self)
            raise ApiError(404, f"models/{name[:100]} is not served here; there is: {known}")
        return offer

    @asynccontextmanager
    async def use(self, name: str) -> AsyncGenerator[Answerer]:
        """The model of that name, loaded, and kept so meanwhile. ApiError where there is no room for it."""
        offer = self.find(name)
        if offer.answerer is None and offer.num_users >= self._config.max_rows + self._config.max_waiting:
            raise ApiError(429, "too many requests wait for this model to be loaded", retry_after_s=LOADING_S)
        offer.num_users += 1
        try:
            while (answerer := offer.answerer) is None:
                if offer.loading is None:
                    offer.loading = asyncio.create_task(self._load(offer))
                await asyncio.shield(offer.loading)  # who leaves does not end the loading for others
            yield answerer
        finally:
            offer.num_users -= 1
            offer.used_s = self._clock()

    async def _load(self, offer: Offer) -> None:
        try:
            async with self._room:
                await self._make_room(offer)
                model = await asyncio.to_thread(offer.load)
                offer.facts = Facts.of_model(model)
                offer.answerer = self._answerer(model)
                offer.used_s = self._clock()
        except (ValueError, OSError) as error:
            raise ApiError(500, f"{offer.names[0]} cannot be loaded: {error}") from None
        finally:
            offer.loading = None

    def _answerer(self, model: Model) -> Answerer:
        config = self._config
        places = {"max_rows": config.max_rows, "max_waiting": config.max_waiting}
        return Answerer(model, **places, piece_s=config.piece_s, limits=config.limits)

    async def _make_room(self, wanted: Offer) -> None:
        """Unload what was used longest ago until `wanted` fits; ApiError 503 where all that is loaded is in use."""
        most = self._config.memory_bytes
        while most and (used := self._used_bytes()) and used + wanted.facts.num_bytes > most:
            idle = [offer for offer in self._idle() if offer is not wanted]
            if not idle:
                message = f"no room for {wanted.names[0]} beside the models that are in use; try again later"
                raise ApiError(503, message, retry_after_s=LOADING_S)
            await self._unload(min(idle, key=lambda offer: offer.used_s))

    def _used_bytes(self) -> int:
        return sum(offer.facts.num_bytes for offer in self.offers if offer.answerer is not None)

    def _idle(self) -> list[Offer]:
        return [o for o in self.offers if o.answerer is not None and not o.num_users and not o.stays]

    async def _unload(self, offer: Offer) -> None:
        answerer, offer.answerer = offer.answerer, None
        assert answerer is not None
        await asyncio.to_thread(answerer.close)
        del answerer
        gc.collect()

    async def unload_idle(self) -> None:
        """Unload what nobody has asked for within the configured time."""
        if not self._config.idle_s:
            return
        for offer in self._idle():
            if self._clock() - offer.used_s >= self._config.idle_s and not offer.num_users:
                async with self._room:
                    if offer in self._idle():
                        await self._unload(offer)

    async def watch(self) -> None:
        """Unload idle models now and then, until cancelled."""
        while self._config.idle_s:
            await asyncio.sleep(min(30.0, self._config.idle_s / 4))
            await self.unload_idle()

    def close(self) -> None:
        """End all of them; answers under way are broken off."""
        for answerer in self.answerers:
            answerer.close()
