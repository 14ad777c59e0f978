"""Castor in mteb (the extra `eval`): a model that runs any of its tasks, and our pools as tasks of its own kind.

    mteb.evaluate(mteb_model(model), mteb_tasks(pools))

mteb gives texts, pictures, sounds and films in several forms; here they become parts. Pools travel as datasets in
memory, so that nothing is fetched. mteb is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from castor.content import Audio, Image, Message, Part, Text, Video
from castor.engine.model import Model
from castor.example import Pair
from castor.tokens.prompts import DOCUMENT, PROMPTS, document_prompt

# mteb's kind of task -> the published name of what its queries are for
TASKS = {
    "Retrieval": "Retrieval-query",
    "InstructionRetrieval": "Retrieval-query",
    "Reranking": "Reranking",
    "InstructionReranking": "Reranking",
    "BitextMining": "BitextMining",
    "Classification": "Classification",
    "MultilabelClassification": "MultilabelClassification",
    "Clustering": "Clustering",
    "PairClassification": "PairClassification",
    "STS": "STS",
}
LETTERS: dict[type, str] = {Text: "t", Image: "i", Audio: "a", Video: "v"}
COLUMNS = {"t": "text", "i": "image", "a": "audio", "v": "video"}


def mteb_model(model: Model, name: str = "castor/model", *, dimensions: int | None = None) -> Any:
    """The model as mteb's evaluation takes it; `dimensions` keeps that many numbers of a vector."""
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta

    whole = model.decoder.config.text.embedding_dim
    if whole is None:
        raise ValueError("this checkpoint has no embedding head; one of ours gets it by: castor train embed")
    about = {
        "name": name,
        "revision": f"dim-{dimensions or whole}",
        "embed_dim": dimensions or whole,
        "modalities": ["text", "image", "audio", "video"],
        "use_instructions": True,
        "framework": ["PyTorch"],
    }

    class CastorEncoder(AbsEncoder):
        """Vectors of mteb's batches."""

        def __init__(self) -> None:
            self.model = model
            self.mteb_model_meta = ModelMeta.create_empty(about)

        def encode(self, inputs: Any, *, task_metadata: Any, prompt_type: Any = None, **_: Any) -> torch.Tensor:
            """float32 [N, E] of all rows, in order."""
            task = task_name(task_metadata, prompt_type)
            vectors = [embed_rows(model, rows_of(batch), task, dimensions) for batch in inputs]
            return torch.cat(vectors)

    return CastorEncoder()


def task_name(metadata: Any, prompt_type: Any) -> str | None:
    """The words before a text: those of documents, or of the task's queries; none where media are compared."""
    if any(kind != "text" for kind in metadata.modalities):
        return None
    if getattr(prompt_type, "value", prompt_type) == "document":
        return DOCUMENT
    return TASKS.get(metadata.type)


def rows_of(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A batch of columns as rows of what makes vectors."""
    columns = {name: batch[name] for name in ("text", "image", "audio", "video", "title", "body") if name in batch}
    if not columns:
        raise ValueError(f"a batch without text, image, audio or video: {sorted(batch)}")
    num = len(next(iter(columns.values())))
    return [{name: values[row] for name, values in columns.items()} for row in range(num)]


def embed_rows(
    model: Model, rows: Sequence[Mapping[str, Any]], task: str | None, dimensions: int | None
) -> torch.Tensor:
    """Vectors of rows; documents with a title say it in the published form."""
    known: Mapping[str, str] = getattr(model.renderer, "prompts", PROMPTS)
    prompts = []
    for row in rows:
        parts = parts_of(row)
        first = parts[0]
        if task is not None and isinstance(first, Text):
            before, text = known.get(task, ""), first.text
            if task == DOCUMENT and row.get("title"):
                before, text = document_prompt(row["title"]), row.get("body") or text
            parts = [Text(before + text), *parts[1:]]
        prompts.append(parts)
    return model.embed(*prompts, dimensions=dimensions)


def parts_of(row: Mapping[str, Any]) -> list[Part]:
    """The parts of one row: media first, then its text, as composed queries are written here."""
    made: list[Part] = []
    if row.get("image") is not None:
        made.append(Image.from_pixels(np.asarray(row["image"].convert("RGB"))))
    if row.get("video") is not None:
        made.append(_video(row["video"]))
    if row.get("audio") is not None:
        made.append(_audio(row["audio"]))
    if row.get("text") or not made:
        made.append(Text(row.get("text") or " "))
    return made


def _audio(given: Any) -> Audio:
    """From samples with their rate, or from torchcodec's decoder."""
    if hasattr(given, "get_all_samples"):
        heard = given.get_all_samples()
        return Audio.from_samples(heard.data.mean(0).numpy().astype(np.float32), int(heard.sample_rate))
    samples = np.asarray(given["array"], dtype=np.float32)
    return Audio.from_samples(samples if samples.ndim == 1 else samples.mean(0), int(given["sampling_rate"]))


def _video(given: Any) -> Video:
    """From raw bytes with their sound, or frames [F, C, H, W] or torchcodec's decoder, of which it takes at most 32."""
    if isinstance(given, Mapping):
        pixels = np.frombuffer(given["pixels"], np.uint8).reshape(given["shape"])
        samples_S = np.frombuffer(given["sound"], np.float32) if given["sound"] else None
        return Video.from_frames(pixels, float(given["fps"]), samples_S)
    fps = 1.0
    if hasattr(given, "get_frames_at"):
        about = given.metadata
        chosen = np.linspace(0, about.num_frames - 1, min(32, about.num_frames)).round().astype(int)
        fps = max(1e-3, len(chosen) / float(about.num_frames / about.average_fps))
        given = given.get_frames_at(chosen.tolist()).data
    return Video.from_frames(torch.as_tensor(given).permute(0, 2, 3, 1).contiguous().numpy().astype(np.uint8), fps)


def _letters(messages: Iterable[Message]) -> str:
    kinds = {LETTERS[type(part)] for message in messages for part in message.parts}
    return "".join(letter for letter in "vait" if letter in kinds)


def _columns(message: Message) -> dict[str, Any]:
    """A message as the columns of a dataset."""
    found: dict[str, Any] = {}
    for part in message.parts:
        if isinstance(part, Text):
            found["text"] = part.text
        elif isinstance(part, Image):
            found["image"] = _pillow(part)
        elif isinstance(part, Audio):
            found["audio"] = {"array": part.samples().tolist(), "sampling_rate": 16_000}
        elif isinstance(part, Video):
            clip = part.clip(num_frames=32)
            frames = clip.frames_FHWC
            fps = len(frames) / max(1e-3, float(clip.times_s[-1] + (clip.times_s[1] if len(frames) > 1 else 1.0)))
            sound = b"" if clip.samples_S is None else clip.samples_S.astype(np.float32).tobytes()
            found["video"] = {"pixels": frames.tobytes(), "shape": list(frames.shape), "fps": fps, "sound": sound}
    return found


def _pillow(part: Image) -> Any:
    from PIL import Image as Pillow

    return Pillow.fromarray(part.pixels())


def mteb_tasks(pools: Mapping[str, Sequence[Pair]]) -> list[Any]:
    """Each pool as a retrieval task of mteb's, its data in memory. Pools whose queries differ in kind are left out."""
    made = [_task(name, pairs) for name, pairs in pools.items()]
    return [task for task in made if task is not None]


def _task(name: str, pairs: Sequence[Pair]) -> Any:
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    kinds = {(_letters([pair.query]), _letters([pair.target])) for pair in pairs}
    if len(kinds) > 1:
        return None
    ((query, target),) = kinds
    queries, corpus = (
        Dataset.from_list([{"id": f"{side[0]}{i}", **_columns(getattr(pair, side))} for i, pair in enumerate(pairs)])
        for side in ("query", "target")
    )
    keys = [pair.target_key for pair in pairs]
    right = {f"q{i}": {f"t{j}": 1 for j, other in enumerate(keys) if other == key} for i, key in enumerate(keys)}
    modalities: Any = sorted({COLUMNS[letter] for letter in query + target})
    category: Any = f"{query}2{target}"
    about = TaskMetadata(
        name="Castor" + "".join(word.capitalize() for word in "".join(c if c.isalnum() else " " for c in name).split()),
        description=f"Held-out pairs: {name}.",
        reference=None,
        dataset={"path": "castor/in-memory", "revision": "1"},
        type="Retrieval" if modalities == ["text"] else "Any2AnyRetrieval",
        category=category,
        modalities=modalities,
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )

    class Pool(AbsTaskRetrieval):
        """A pool of pairs."""

        metadata = about

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            """The pairs, which are there already."""
            self.dataset = {
                "default": {"test": {"queries": queries, "corpus": corpus, "relevant_docs": right, "top_ranked": None}}
            }
            self.data_loaded = True

    return Pool()
