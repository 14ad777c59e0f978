"""How far our numbers are from transformers', for tiny random checkpoints of every published form and every medium.

    python bench/parity.py
    python bench/parity.py "gemma4 E2B" embedding_gemma2

Prints a Markdown table. Each figure is the largest absolute difference of a logit (or, of an encoder, of a number in a
token's vector) on one document. The columns:

    whole     the document alone
    packed    between two documents of text, in a row with padding behind it
    cached    the document and then text, token by token past the window, both with their caches
    bf16 ...  the same three, both sides in bfloat16
    theirs    transformers' bfloat16 from its own float32, whole: what rounding alone does to this checkpoint
    ours      the same of ours

Two roundings that differ are independent: "bf16" may be as large as "theirs" and "ours" together. A row is an entry
of `ARCHITECTURES` in `tests/reference.py` and one of DOCUMENTS that its model can read.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.models.load import load_model
from castor.tokens.pack import collate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import reference as ref  # noqa: E402
import test_gemma4_media as media  # noqa: E402
import transformers  # noqa: E402
from transformers.utils.logging import disable_progress_bar  # noqa: E402

UNIFIED = "gemma4_unified 12B"
# t: tokens of text; i: a picture; a: a sound; v: a video. As in tests/test_gemma4_media.py.
DOCUMENTS: dict[str, list[media.Item]] = {"text": [("t", 3 * ref.WINDOW)]} | {
    medium: media.DOCUMENTS[name]
    for medium, name in {
        "image": "a picture",
        "several images": "several pictures",
        "audio": "a sound",
        "video": "a video",
        "interleaved": "interleaved",
    }.items()
}


class Case:
    """One checkpoint on both sides, and one document."""

    def __init__(self, name: str, reference: Any, model: Decoder, items: list[media.Item]) -> None:
        self.name, self.reference, self.model = name, reference, model
        self.items, self.document = items, media.Document(items, seed=3)

    def rounded(self) -> Case:
        """The same in bfloat16."""
        reference, model = (copy.deepcopy(side).bfloat16() for side in (self.reference, self.model))
        return Case(self.name, reference, model, self.items)

    def theirs(self, reference: Any, past: Any = None) -> torch.Tensor:
        """Logits, or vectors of tokens, [T, V or E]."""
        given = self.document.theirs()
        dtype = next(reference.parameters()).dtype
        if self.name == UNIFIED:
            given = self._unified(given) | {"past_key_values": past}
            given["attention_mask"] = reference.create_masks_for_generate(
                config=reference.config,
                inputs_embeds=torch.empty(*given["input_ids"].shape, 32, dtype=dtype),
                attention_mask=None,
                past_key_values=past,
                position_ids=None,
                mm_token_type_ids=given["mm_token_type_ids"],
            )
        elif past is not None:
            given["past_key_values"] = past
        if self.model.config.text.sees_both_ways or len(given) == 2 and self.name != UNIFIED:
            del given["mm_token_type_ids"]
        rounded = {key: value.to(dtype) if _is_float(value) else value for key, value in given.items()}
        output = reference(**rounded, **({"use_cache": True} if past is not None else {}))
        return (output.logits if hasattr(output, "logits") else output.last_hidden_state)[0]

    def _unified(self, given: dict[str, Any]) -> dict[str, Any]:
        """The same media as squares of pixels and raw frames, which the model without towers takes."""
        sequence = self.document.ours()
        squares = torch.from_numpy(sequence.patches_PC).float() / 255.0
        places, block = torch.from_numpy(sequence.patch_xy_P2).long(), torch.from_numpy(sequence.block_T)
        at = torch.from_numpy(sequence.patch_at_P).long()
        ids, pad = given["input_ids"][0][at], torch.nn.utils.rnn.pad_sequence
        for kind, names in (
            (media.IMAGE, ("pixel_values", "image_position_ids")),
            (media.VIDEO, ("pixel_values_videos", "video_position_ids")),
        ):
            parts = [block[at] == number for number in block[at][ids == kind].unique().tolist()]
            if parts:
                given[names[0]] = pad([squares[part] for part in parts], batch_first=True)
                given[names[1]] = pad([places[part] for part in parts], batch_first=True, padding_value=-1)
        if len(sequence.frames_SF):
            clips = torch.from_numpy(sequence.clip_S)
            frames = torch.from_numpy(sequence.frames_SF)
            parts = [frames[clips == clip] for clip in clips.unique()]
            given["input_features"] = pad(parts, batch_first=True)
            given["input_features_mask"] = pad([torch.ones(len(part)) for part in parts], batch_first=True) > 0
        return given

    def ours(self, model: Decoder) -> torch.Tensor:
        """The same of ours."""
        return ref.our_output(model, collate([[self.document.ours()]], len(self.document.ids)))[0]


def whole(case: Case) -> float:
    """One document."""
    return _most(case.theirs(case.reference), case.ours(case.model))


def packed(case: Case) -> float:
    """The document second of three."""
    first, last = (ref._sequence(ids) for ids in ref.documents(5, ref.WINDOW))
    row = [first, case.document.ours(), last]
    ours = ref.our_output(case.model, collate([row], sum(map(len, row)) + 4))[0, 5 : 5 + len(row[1])]
    return _most(case.theirs(case.reference), ours)


def cached(case: Case) -> float | None:
    """The document and further tokens; None for a model that sees both ways."""
    if case.model.config.text.sees_both_ways:
        return None
    length, tail = len(case.document.ids), ref.documents(ref.WINDOW + 4, seed=2)[0]
    cache = case.model.new_cache(1, length + len(tail))
    past = transformers.DynamicCache(config=case.reference.config.get_text_config())
    ours = case.model(collate([[case.document.ours()]], length), cache)[0]
    found = [_most(case.theirs(case.reference, past), ours)]
    for place, token_id in enumerate(tail):
        ours = case.model(ref.step_of([token_id], [length + place]), cache)[0]
        theirs = ref.their_output(case.reference, [token_id], past_key_values=past, use_cache=True)
        found.append(_most(theirs, ours))
    return max(found)


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _most(theirs: torch.Tensor, ours: torch.Tensor) -> float:
    assert theirs.shape == ours.shape
    return float((theirs.float() - ours.float()).abs().max())


MODES: dict[str, Callable[[Case], float | None]] = {"whole": whole, "packed": packed, "cached": cached}
COLUMNS = (*MODES, *(f"bf16 {mode}" for mode in MODES), "theirs", "ours")


def figures(case: Case) -> list[float | None]:
    """What COLUMNS say of a case."""
    rounded = case.rounded()
    found = [mode(each) for each in (case, rounded) for mode in MODES.values()]
    theirs = _most(case.theirs(case.reference), rounded.theirs(rounded.reference))
    return [*found, theirs, _most(case.ours(case.model), rounded.ours(rounded.model))]


def reference_of(name: str) -> Any:
    """transformers' tiny random model, with towers or embedders where the form has them."""
    if name in media.MEDIA:
        return media.random_reference(name)
    architecture = ref.ARCHITECTURES[name]
    if name != UNIFIED:
        return ref.random_reference(architecture)
    px, frame = {"patch_size": 4, "pooling_kernel_size": 3}, media.SOUND.audio_embed_dim
    config = transformers.Gemma4UnifiedConfig(
        text_config=ref._TEXT | architecture.text,
        vision_config=px | {"mm_embed_dim": 24, "mm_posemb_size": 64, "output_proj_dims": 24},
        audio_config={"audio_embed_dim": frame},
        image_token_id=media.IMAGE,
        audio_token_id=media.AUDIO,
        video_token_id=media.VIDEO,
    )
    torch.manual_seed(0)
    model = transformers.Gemma4UnifiedForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    return ref.randomise_model(model)


def readable(config: ModelConfig) -> dict[str, list[media.Item]]:
    """The documents that a model can read."""
    sees, hears = config.vision is not None, config.audio is not None
    assert config.vision is None or config.vision.patch_dim == media.VISION.patch_dim
    kinds = {"t"} | ({"i", "v"} if sees else set()) | ({"a"} if hears else set())
    found = {name: [item for item in items if item[0] in kinds] for name, items in DOCUMENTS.items()}
    needed = {"image": "i", "several images": "i", "audio": "a", "video": "v", "interleaved": "i"}
    return {name: items for name, items in found.items() if needed.get(name, "t") in kinds}


@torch.inference_mode()
def main(names: list[str]) -> None:
    """Print the table, a row as soon as it is known."""
    disable_progress_bar()
    print(f"| checkpoint | document | {' | '.join(COLUMNS)} |\n|---|---|{'---:|' * len(COLUMNS)}", flush=True)
    for name in names or ref.ARCHITECTURES:
        reference = reference_of(name)
        with tempfile.TemporaryDirectory() as folder:
            model = load_model(ref.write(reference, Path(folder)))
        for document, items in readable(model.config).items():
            found = figures(Case(name, reference, model, items))
            told = " | ".join("-" if value is None else format(value, ".1e") for value in found)
            print(f"| {name} | {document} | {told} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="checkpoint", help=f"of {', '.join(ref.ARCHITECTURES)}; else all")
    asked = parser.parse_args().names
    if unknown := set(asked) - set(ref.ARCHITECTURES):
        parser.error(f"no such checkpoint: {', '.join(sorted(unknown))}")
    main(asked)
