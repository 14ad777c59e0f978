"""The evaluation of vectors: retrieval in held-out Diorama and in held-out real sets, every medium against others."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from castor.content import Image, Message
from castor.data.real import RealData
from castor.data.real.images import UNSEEN_STYLE
from castor.data.real.pairs import Hub, RealPairs, sequence_forms
from castor.diorama.pairs import NEEDS_SPEECH_PAIRS, PAIRS, WorldPairs
from castor.diorama.speech import speech_available
from castor.engine.model import Model
from castor.evals.retrieval import Pool, RetrievalReport, report_of
from castor.example import Pair
from castor.recipes.real import real_data
from castor.runtime import hardware
from castor.tokens.embedding import EmbeddingRenderer

SEEN = "seen_combination"
NUM_CONCEPTS = 300


def evaluate_embedding(
    model: Model, *, limit: int = 1000, data: str | None = None, seed: int = 0, say: Callable[[str], None] = print
) -> RetrievalReport:
    """Retrieval in pools of `limit` held-out pairs, at every size of a vector and in every storage."""
    pools = []
    for name, pairs in (world_pools(limit, seed, say) | real_pools(real_data(data or ""), limit)).items():
        pools.append(pool_of(model, name, pairs))
        say(f"{name}: {len(pairs)} pairs")
    whole = model.decoder.config.text.embedding_dim
    assert whole is not None
    sizes = [whole] + [dim for dim in (whole // 2, whole // 4, whole // 8) if dim >= 32]
    settings = {"limit": limit, "seed": seed, "hardware": hardware(), "diorama": "test split"}
    return report_of(pools, sizes, settings)


def pool_of(model: Model, name: str, pairs: Sequence[Pair]) -> Pool:
    """Vectors of both sides; a target is right for every query that means the same."""
    vectors = []
    for side in ("query", "target"):
        tasks = [getattr(pair, f"{side}_task") or None for pair in pairs]
        if isinstance(model.renderer, EmbeddingRenderer):  # its own names may differ
            tasks = [task if task in model.renderer.prompts else None for task in tasks]
        assert len(set(tasks)) == 1, "a pool is of one task"
        vectors.append(model.embed(*([getattr(pair, side)] for pair in pairs), task=tasks[0]).numpy())
    keys = np.array([pair.target_key for pair in pairs])
    tags = sorted({tag for pair in pairs for tag in pair.tags})
    slices = {tag: np.array([tag in pair.tags for pair in pairs]) for tag in tags}
    if "unseen_combination" in slices:
        slices = {SEEN: ~slices["unseen_combination"]} | slices
    return Pool(name, vectors[0], vectors[1], keys[:, None] == keys[None], slices)


def world_pools(limit: int, seed: int, say: Callable[[str], None] = print) -> dict[str, list[Pair]]:
    """Held-out pairs of every kind of Diorama's that can be made here."""
    speech = speech_available()
    if not speech:
        say("no speech synthesiser here, so spoken pools are left out; pip install 'castor[synth]' brings one")
    names = [name for name in PAIRS if speech or name not in NEEDS_SPEECH_PAIRS]
    return {name: [WorldPairs(name, seed, "test").at(index) for index in range(limit)] for name in names}


def real_pools(data: RealData, limit: int) -> dict[str, list[Pair]]:
    """Held-out pairs of the real sets that are there."""
    found: dict[str, list[Pair]] = {}
    if "concepts" in data.sources:
        hub = Hub(data, "test")
        rng = random.Random("concept pools")
        for is_seen in (True, False):
            concepts = [c for c in sorted(hub.names) if hub.is_seen(c) == is_seen]
            concepts = [c for c in concepts if UNSEEN_STYLE in hub.concepts[c]["images"]]
            chosen = rng.sample(concepts, min(NUM_CONCEPTS, len(concepts), limit))
            kind = "seen" if is_seen else "unseen"
            names = {c: hub.names[c]["en"] for c in chosen}
            drawn = {c: hub.picture(c, UNSEEN_STYLE) for c in chosen}
            found[f"picture in unseen style -> name, {kind} concepts"] = [
                _pair(drawn[c], names[c], names[c]) for c in chosen
            ]
            any_names = {c: hub.name(c, rng)[1] for c in chosen}
            found[f"name in 46 languages -> picture, {kind} concepts"] = [
                _pair(any_names[c], drawn[c], names[c]) for c in chosen
            ]
    for name, title in DRAWN.items():
        pairs = RealPairs(name, data, "test")
        if pairs.size > 1:
            rng = random.Random(f"pool/{name}")
            found[title] = [pairs.pair(rng) for _ in range(min(limit, 300, 4 * pairs.size * pairs.size))]
    return found | sequence_pools(data) | domain_pools(data, limit)


DRAWN = {
    "concepts/sound_picture": "sound -> picture or name of the thing",
    "concepts/word_picture": "spoken Mandarin word -> picture or name",
    "concepts/film_name": "animation -> picture or name",
    "sound_caption": "sound -> caption",
    "speech_digit": "spoken digit -> written digit, unseen speakers",
    "digit_word": "digit -> number word in 46 languages",
    "clothing": "photo -> piece of clothing",
}


def sequence_pools(data: RealData) -> dict[str, list[Pair]]:
    """Digit sequences of an unseen speaker, each pair of media one pool."""
    if "digits/sequences" not in data.sources:
        return {}
    source: Any = data["digits/sequences"]
    rows = source.rows["test"]
    found = {}
    for ways in (("audio", "video"), ("audio", "text"), ("image", "video"), ("video", "text"), ("audio", "image")):
        pairs = []
        for row in rows:
            query, target = sequence_forms(source, row, ways)
            pairs.append(_pair(query, target, " ".join(map(str, row["digits"]))))
        found[f"digit sequence: {ways[0]} -> {ways[1]}"] = pairs
    return found


DOMAINS = {
    "domains/art": ("painting", "title"),
    "domains/astronomy": ("sky", "text"),
    "domains/cooking_en": ("dish", "title"),
}


def domain_pools(data: RealData, limit: int) -> dict[str, list[Pair]]:
    """Fields that nothing was learned of: art, sky, food; and captions of photos."""
    found = {}
    for name, (title, field) in DOMAINS.items():
        if name in data.sources:
            source = data[name]
            rows = [row for split in ("train", "test") for row in source.rows[split]][: min(limit, 200)]
            pairs = []
            for row in rows:
                ref = row["images"][0] if "images" in row else row
                pairs.append(_pair(row[field], Image(source.bytes_of(row, ref), name=row["id"]), row["id"]))
            found[f"{title} by its {field}, zero-shot"] = pairs
    if "photos/coco_mini" in data.sources:
        source = RealData(data.path, ("C",))["photos/coco_mini"]  # class C scores and never trains
        rows = [row for split in ("train", "test") for row in source.rows[split]]
        photos = [(row["captions"][0], Image(source.bytes_of(row), name=row["id"]), row["id"]) for row in rows]
        found["caption -> photo, zero-shot"] = [_pair(*photo) for photo in photos[:limit]]
    return {name: pairs for name, pairs in found.items() if len(pairs) > 1}


def _pair(query: Any, target: Any, key: str) -> Pair:
    return Pair(query=Message.user(query), target=Message.user(target), source="", query_key=key, target_key=key)
