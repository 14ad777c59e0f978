"""How far our numbers are from transformers', for a tiny random checkpoint of every published family.

    python bench/parity.py

Each figure is the largest absolute difference of a logit (or, of an encoder, of a number in a token's vector). The
columns:

    whole     one document, longer than the sliding window
    packed    three documents in two padded rows, theirs one by one
    cached    a prompt, then token by token past the window, both with their caches
    saved     ours as transformers reads it back from `save_model`
    bfloat16  whole, both in bfloat16
    (theirs)  transformers' bfloat16 from its own float32: what rounding alone does to this checkpoint
    (ours)    the same of ours

A row is an entry of `ARCHITECTURES` in `tests/reference.py`, a column a function in MODES.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from castor.models.decoder import Decoder
from castor.models.load import load_model, save_model

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import reference as ref  # noqa: E402
import transformers  # noqa: E402

LENGTH = 3 * ref.WINDOW


def whole(reference: Any, model: Decoder) -> float:
    """One document."""
    ids = ref.documents(LENGTH)[0]
    return _most(ref.their_output(reference, ids), ref.our_output(model, ref.batch_of([[ids]]))[0, :LENGTH])


def packed(reference: Any, model: Decoder) -> float:
    """Three documents in two rows."""
    ids = ref.documents(5, LENGTH, ref.WINDOW + 1)
    ours = ref.our_output(model, ref.batch_of([ids[:2], ids[2:]]))
    parts = (ours[0, :5], ours[0, 5 : 5 + LENGTH], ours[1, : ref.WINDOW + 1])
    return max(_most(ref.their_output(reference, one), part) for one, part in zip(ids, parts, strict=True))


def cached(reference: Any, model: Decoder) -> float | None:
    """A prompt and further tokens; None for a model that sees both ways."""
    if model.config.text.sees_both_ways:
        return None
    prompt, tail = ref.documents(5, LENGTH)
    cache = model.new_cache(1, 5 + LENGTH + 3)
    past = transformers.DynamicCache(config=reference.config.get_text_config())
    options = {"past_key_values": past, "use_cache": True}
    found = [_most(ref.their_output(reference, prompt, **options), model(ref.batch_of([[prompt]]), cache)[0, :5])]
    for place, token_id in enumerate(tail):
        ours = model(ref.step_of([token_id], [5 + place]), cache)[0]
        found.append(_most(ref.their_output(reference, [token_id], **options), ours))
    return max(found)


def saved(reference: Any, model: Decoder) -> float:
    """Their model of our file against our model."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, folder)
        return whole(type(reference).from_pretrained(folder).eval(), model)


def in_bfloat16(reference: Any, model: Decoder) -> float:
    """Both sides rounded."""
    return whole(copy.deepcopy(reference).bfloat16(), copy.deepcopy(model).bfloat16())


def theirs_in_bfloat16(reference: Any, model: Decoder) -> float:
    """transformers rounded against transformers in full."""
    ids = ref.documents(LENGTH)[0]
    return _most(ref.their_output(reference, ids), ref.their_output(copy.deepcopy(reference).bfloat16(), ids))


def ours_in_bfloat16(reference: Any, model: Decoder) -> float:
    """Ours rounded against ours in full."""
    batch = ref.batch_of([ref.documents(LENGTH)])
    rounded = ref.our_output(copy.deepcopy(model).bfloat16(), batch)
    return _most(ref.our_output(model, batch)[0, :LENGTH], rounded[0, :LENGTH])


def _most(theirs: torch.Tensor, ours: torch.Tensor) -> float:
    assert theirs.shape == ours.shape
    return float((theirs.float() - ours.float()).abs().max())


MODES: dict[str, Callable[[Any, Decoder], float | None]] = {
    "whole": whole,
    "packed": packed,
    "cached": cached,
    "saved": saved,
    "bfloat16": in_bfloat16,
    "(theirs)": theirs_in_bfloat16,
    "(ours)": ours_in_bfloat16,
}


@torch.inference_mode()
def main() -> None:
    """Print the table, a row as soon as it is known."""
    transformers.utils.logging.disable_progress_bar()
    width = max(map(len, ref.ARCHITECTURES))
    print(f"{'':{width}}  " + "  ".join(f"{name:>8}" for name in MODES))
    for name, architecture in ref.ARCHITECTURES.items():
        reference = ref.random_reference(architecture)
        with tempfile.TemporaryDirectory() as folder:
            model = load_model(ref.write(reference, Path(folder)))
        found = [mode(reference, model) for mode in MODES.values()]
        figures = "  ".join(f"{'-' if value is None else format(value, '.1e'):>8}" for value in found)
        print(f"{name:{width}}  {figures}", flush=True)


if __name__ == "__main__":
    main()
