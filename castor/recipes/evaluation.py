"""The whole evaluation: held-out Diorama, held-out real files where there are some, and the image codec alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from castor.content import Audio, Document, Image, Message, Video
from castor.diorama.parse import caption_f1, drawing_f1
from castor.diorama.speech import speech_available
from castor.diorama.spoken import NEEDS_SPEECH
from castor.diorama.world import World
from castor.engine.model import Model
from castor.evals.evaluate import evaluate
from castor.evals.progress import show_progress
from castor.evals.report import Report
from castor.example import Example
from castor.recipes.curriculum import WORLD_WEIGHTS
from castor.recipes.real import real_examples
from castor.runtime import hardware
from castor.tasks.suite import build_tasks
from castor.train.codec import measure_codec


def evaluate_model(
    model: Model,
    *,
    limit: int = 64,
    data: str | None = None,
    seed: int = 0,
    records_path: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> Report:
    """Score every task on `limit` held-out examples each, beside what chance would score on the very same ones.

    `data` is a folder of real data; None takes the variable CASTOR_DATA, and does without where it is unset.
    """
    real, told = real_examples(data or "", limit)  # first, as it may be refused
    say(told)
    examples = readable(model, world_examples(limit, seed, say) | real, say)
    examples["reconstruction"] = reconstruction_examples(limit, seed)
    settings = {"limit": limit, "seed": seed, "hardware": hardware(), "diorama": "test split"}
    settings["codec"] = codec_figures(model, examples)
    for name, figures in settings["codec"].items():
        used = f"{100 * figures['codes_used']:.0f} % of its codes used, perplexity {figures['perplexity']:.0f}"
        say(f"image codec on {name}: {figures['psnr_db']:.1f} dB, {used}")
    with show_progress() as progress:
        return evaluate(
            model,
            examples,
            build_tasks(caption_f1=caption_f1, drawing_f1=drawing_f1),
            answerers={"reconstruction": lambda batch: reconstruct(model, batch)},
            records_path=records_path,
            progress=progress,
            settings=settings,
            seed=seed,
        )


def world_examples(limit: int, seed: int, say: Callable[[str], None] = print) -> dict[str, list[Example]]:
    """`limit` test examples of each Diorama task; the ones that need a voice only where there is a synthesiser."""
    speech = speech_available()
    if not speech:
        say("no speech synthesiser here, so spoken tasks are left out; pip install 'castor[synth]' brings one")
    world = World(seed=seed, split="test", speech=speech)
    names = [name for name in WORLD_WEIGHTS if speech or name not in NEEDS_SPEECH]
    return {name: [world.example(name, index) for index in range(limit)] for name in names}


def readable(
    model: Model, examples: dict[str, list[Example]], say: Callable[[str], None] = print
) -> dict[str, list[Example]]:
    """The tasks whose prompts this model can read: some published ones are deaf, or know text alone."""
    config = model.decoder.config
    senses = {Image: config.vision, Video: config.vision, Document: config.vision, Audio: config.audio}
    lacked = tuple(part for part, sense in senses.items() if sense is None)
    parts = {task: [p for e in given for m in e.prompt for p in m.parts] for task, given in examples.items()}
    left_out = [task for task in examples if any(isinstance(part, lacked) for part in parts[task])]
    if left_out:
        say(f"this model cannot read what these are about, so they are left out: {', '.join(left_out)}")
    return {task: given for task, given in examples.items() if task not in left_out}


def reconstruction_examples(limit: int, seed: int) -> list[Example]:
    """Pictures to be passed through the codec: half drawings, half pictures to look at."""
    world = World(seed=seed, split="test", speech=False)
    found: list[Example] = []
    for index in range(limit):
        source = world.example("drawing" if index % 2 == 0 else "image_question", 10_000 + index)
        image = Image.from_pixels(_last_picture(source))
        messages = (Message.user(image, "Paint this again."), Message.model(image))
        found.append(Example(messages=messages, task="reconstruction"))
    return found


def codec_figures(model: Model, examples: Mapping[str, Sequence[Example]]) -> dict[str, dict[str, float]]:
    """PSNR and codebook use on held-out drawings, pictures to read, and real pictures where there are some."""
    groups = {"drawings": "drawing", "pictures to read": "image_question", "pictograms": "concept_name"}
    groups |= {"photographs": "photo_class"}
    figures = {}
    for name, task in groups.items():
        pictures = [_last_picture(example) for example in examples.get(task, ())]
        if pictures and model.codec is not None:
            figures[name] = measure_codec(model.codec, pictures)
    return figures


def _last_picture(example: Example) -> np.ndarray:
    return next(part for m in reversed(example.messages) for part in m.parts if isinstance(part, Image)).pixels()


def reconstruct(model: Model, examples: Sequence[Example]) -> list[Message]:
    """Each example's picture, encoded to codes and painted again."""
    if model.codec is None:
        return [Message.model("") for _ in examples]
    repainted = []
    for example in examples:
        pixels_HWC: np.ndarray = example.answer.images[0].pixels()
        painted_HWC = model.codec.decode(model.codec.encode(pixels_HWC))
        repainted.append(Message.model(Image.from_pixels(painted_HWC[: pixels_HWC.shape[0], : pixels_HWC.shape[1]])))
    return repainted
