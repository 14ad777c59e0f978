"""Fine-tuning `atom` three ways on 200 made-up examples, and what four bits cost it. Prints Markdown tables.

    python bench/finetune.py FOLDER

One thread; seconds are those of the processor, for a whole run with its measuring.

The examples: pictures of the small world's validation split with their questions, answered in a form that the model
never saw, "Captain, red it is. Over." A fifth of them is held out.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import castor
from castor.content import Image, Message
from castor.data.own import OwnExamples
from castor.diorama.world import World
from castor.nn.lowbit import FORMS, LowBitLinear, quantise_linears, weight_bytes
from castor.recipes.finetune import FinetuneConfig, run_finetune
from castor.recipes.held_out import HeldOut
from castor.tasks.normalise import normalise
from castor.train.objective import next_token

COUNT = 200
FORM = re.compile(r"Captain, (.*) it is\. Over\.")


def make_examples(path: Path, *, is_new_form: bool, split: str) -> str:
    """Write `COUNT` questions about pictures, with the answers in the new form or as they are."""
    world, lines = World(seed=5, split=split, languages=("en",)), []
    for index in range(COUNT):
        example = world.example("image_question", index)
        asked, answer = example.messages[0], example.messages[1].text
        picture = next(part for part in asked.parts if isinstance(part, Image))
        said = f"Captain, {answer} it is. Over." if is_new_form else answer
        turns = [Message.user(picture, asked.text), Message.model(said)]
        lines.append(json.dumps({"contents": [turn.to_json() for turn in turns]}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def four_bits(path: str) -> None:
    """Error of the weights and loss on questions in the form that the model knows, for each form of four bits."""
    print("\n| Linear layers | MB of weights | weight error | nats a token |\n|---|--:|--:|--:|")
    for form in (None, *FORMS):
        model = castor.load("atom", device="cpu")
        decoder = model.decoder
        plain = {name: module.weight for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
        if form is not None:
            quantise_linears(decoder, form)
        pairs = [(plain[n], m.weight) for n, m in decoder.named_modules() if isinstance(m, LowBitLinear)]
        wrong, size = (sum(float(x.detach().square().sum()) for x in xs) for xs in (
            [a - b for a, b in pairs], [a for a, _ in pairs]))  # fmt: skip
        own = OwnExamples([path], lambda example, model=model: model.renderer.encode(example.messages), row_tokens=512)
        loss = next_token(decoder, model.renderer.space.first_code)
        nats = HeldOut(own, range(len(own))).loss(loss, "cpu", "float32")["loss"]
        error = f"{100 * (wrong / size) ** 0.5:.1f} %" if size else "0"
        print(f"| {form or 'float32'} | {weight_bytes(decoder) / 1e6:.1f} | {error} | {nats:.4f} |", flush=True)


def methods(path: str, folder: Path) -> None:
    """The table of methods."""
    print(
        "\n| Method | trained numbers | MB: weights, gradients, optimizer | CPU s | held-out nats, before | after | "
        "right as it spoke before | exact, before | exact, after | in the new form | saved MB |\n|---|" + 10 * "--:|"
    )
    settings: dict[str, dict[str, Any]] = {
        "full": {"method": "full"},
        "lora": {"method": "lora"},
        "qlora, nf4": {"method": "qlora"},
        "qlora, int4": {"method": "qlora", "bits": "int4"},
    }
    for name, more in settings.items():
        out = str(folder / name.replace(", ", "-"))
        config = FinetuneConfig(examples=(path,), out=out, epochs=8, held_out=0.2, answers=40, max_tokens=24, **more)
        start_s = time.process_time()
        report = run_finetune(config, say=lambda _: None)
        assert report is not None, "interrupted"
        print(row(name, report, time.process_time() - start_s), flush=True)


def row(name: str, report: dict[str, Any], seconds: float) -> str:
    """A method's line: an Adam step keeps a gradient and two means for each trained number, and an adapter itself."""
    before, after = report["before"], report["after"]
    needed = report["base_bytes"] + (12 + 4 * (name != "full")) * report["trained"]
    saved = next(size for file, size in report["files"].items() if file.endswith("model.safetensors"))
    bare = [normalise(FORM.sub(r"\1", each["wanted"])) == normalise(each["said"]) for each in before["answers"]]
    formed = [FORM.fullmatch(each["said"]) is not None for each in after["answers"]]
    return (
        f"| {name} | {report['trained']:,} | {needed / 1e6:.1f} | {seconds:.0f} | {before['loss']:.2f} | "
        f"{after['loss']:.3f} | {statistics.mean(bare):.0%} | {before['exact']:.0%} | {after['exact']:.0%} | "
        f"{statistics.mean(formed):.0%} | {saved / 1e6:.1f} |"
    )


def main() -> None:
    """Make the examples, print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where examples and runs are kept")
    place = parser.parse_args().folder
    torch.set_num_threads(1)
    place.mkdir(parents=True, exist_ok=True)
    four_bits(make_examples(place / "known.jsonl", is_new_form=False, split="test"))
    methods(make_examples(place / "form.jsonl", is_new_form=True, split="val"), place)


if __name__ == "__main__":
    main()
