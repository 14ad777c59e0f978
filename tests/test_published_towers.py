"""Folders of checkpoints with towers, end to end: answers and vectors are those of transformers, its own processors.

Media are prepared on both sides independently: theirs by the image processor, the feature extractor and the text that
the processor class puts in a medium's place. Frames of videos go through the image processor, as torchvision, which the
video processor needs, is not here.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import castor
from castor.content import Audio, Image, Message, Part, Text, Video

published = pytest.importorskip("published")
transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

NAMES = ["gemma4 E2B", "gemma4 E4B", "gemma4 31B", "gemma4 26B-A4B"]
TOKENS = 70  # of a picture and of a frame
SECOND = 16_000
MARKS = SimpleNamespace(
    boi_token="<|image>", image_token="<|image|>", eoi_token="<image|>", video_token="<|video|>",
    boa_token="<|audio>", audio_token="<|audio|>", eoa_token="<audio|>",
    video_processor=SimpleNamespace(add_timestamps=False),
)  # fmt: skip


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def sound(num_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, num_samples).astype(np.float32)


def clip(num_frames: int, fps: float) -> Video:
    frames = np.stack([picture(40, 60, seed) for seed in range(num_frames)])
    return Video.from_frames(frames, fps=fps, samples_S=sound(int(num_frames / fps * SECOND), 9))


PROMPTS: dict[str, tuple[Part, ...]] = {
    "text": (Text("The quick brown fox, größer 红色 🙂"),),
    "image": (Image.from_pixels(picture(90, 160)), Text("How many red circles are there?")),
    "two images": (
        Text("Left"), Image.from_pixels(picture(50, 90)), Text("or"), Image.from_pixels(picture(200, 70, 1)), Text("?"),
    ),
    "audio": (Text("Listen:"), Audio.from_samples(sound(9000))),
    "video": (clip(9, 4.0), Text("What moves?")),
    "interleaved": (
        Audio.from_samples(sound(5000)), Text("and"), Image.from_pixels(picture(64, 64)), clip(3, 1.0),
        Audio.from_samples(sound(700, 2)), Image.from_pixels(picture(30, 200, 3)), Text("Say."),
    ),
}  # fmt: skip


class Theirs:
    """Prompts as transformers' processors prepare them."""

    def __init__(self, folder: Path, *, embeds: bool = False) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.images = transformers.models.gemma4.image_processing_pil_gemma4.Gemma4ImageProcessorPil(
            max_soft_tokens=TOKENS, patch_size=4, pooling_kernel_size=3
        )
        self.sounds = transformers.Gemma4AudioFeatureExtractor(feature_size=16)
        self.embeds = embeds

    def inputs(self, parts: tuple[Part, ...]) -> dict[str, torch.Tensor]:
        """Model inputs of one prompt: a user's turn, or the bare parts of what a vector is made of."""
        seen: dict[str, list[np.ndarray]] = {"image": [], "video": []}
        heard: list[np.ndarray] = []
        num_frames: list[int] = []
        text = ""
        for part in parts:
            if isinstance(part, Text):
                text += part.text
            elif isinstance(part, Image):
                seen["image"].append(part.pixels())
                text += self.told("image", seen["image"][-1:])
            elif isinstance(part, Audio):
                heard.append(part.samples())
                text += self.told_sound(heard[-1])
            else:
                frames, times_s = self.sampled(part)
                seen["video"] += list(frames)
                num_frames.append(len(frames))
                text += self.told("video", list(frames), times_s)
        if not self.embeds:
            text = f"<bos><|turn>user\n{text}<turn|>\n<|turn>model\n"
        ids = torch.tensor([self.tokenizer(text, add_special_tokens=self.embeds)["input_ids"]])
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        for kind, names in (
            ("image", ("pixel_values", "image_position_ids")),
            ("video", ("pixel_values_videos", "video_position_ids")),
        ):
            if seen[kind]:
                made = self.images(seen[kind], return_tensors="pt")
                given |= {names[0]: made["pixel_values"], names[1]: made["image_position_ids"]}
        if num_frames:
            given["num_frames_per_video"] = torch.tensor(num_frames)
        if heard:
            made = self.sounds(heard, return_tensors="pt")
            given |= {key: made[key] for key in ("input_features", "input_features_mask")}
        if not self.embeds:
            marks = [self.tokenizer.convert_tokens_to_ids(f"<|{kind}|>") for kind in ("image", "video", "audio")]
            given["mm_token_type_ids"] = sum((ids == mark) * (at + 1) for at, mark in enumerate(marks))
        return given

    @property
    def processor(self) -> Any:
        models = transformers.models
        if self.embeds:
            return models.embedding_gemma2.processing_embedding_gemma2.EmbeddingGemma2Processor
        return models.gemma4.processing_gemma4.Gemma4Processor

    def told(self, kind: str, frames: list[np.ndarray], times_s: Any = ()) -> str:
        count = self.images(frames, return_tensors="pt")["num_soft_tokens_per_image"][0]
        if kind == "image":
            return self.processor.replace_image_token(MARKS, {"num_soft_tokens_per_image": [count]}, 0)
        inputs = {
            "num_soft_tokens_per_video": [count],
            "num_frames_per_video": [len(frames)],
            "video_metadata": [SimpleNamespace(fps=1.0, timestamps=list(times_s))],
        }
        options = {"videos_kwargs": {"add_timestamps": False}, "load_audio_from_video": False} if self.embeds else {}
        return self.processor.replace_video_token(MARKS, inputs, 0, **options)

    def told_sound(self, samples_S: np.ndarray) -> str:
        mask = self.sounds([samples_S], return_tensors="np")["input_features_mask"]
        marks = SimpleNamespace(**vars(MARKS), compute_sscp=getattr(self.processor, "compute_sscp", None))
        return self.processor.replace_audio_token(marks, {"input_features_mask": mask}, 0)

    def sampled(self, video: Video) -> tuple[np.ndarray, np.ndarray]:
        """The frames that their rules choose: five equally spaced ones, or one a second."""
        made = video._made_from
        assert made is not None
        frames, fps = made[0], made[1]
        duration_s = len(frames) / fps
        if self.embeds:
            at = np.array([min(len(frames) - 1, int(i * fps)) for i in range(max(1, int(duration_s)))])
        else:
            num = min(5, len(frames))
            at = np.arange(0, len(frames), len(frames) / num).astype(int)[:num]
        return frames[at], at / fps


@pytest.fixture(scope="module", params=NAMES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, castor.Model]:
    folder = tmp_path_factory.mktemp("towers")
    theirs = published.write_tower_checkpoint(folder, request.param)
    return folder, theirs, castor.load(folder, device="cpu")


def readable(model: castor.Model) -> dict[str, tuple[Part, ...]]:
    """The prompts that this model can read."""
    if model.decoder.config.audio is not None:
        return PROMPTS
    deaf = {name: tuple(part for part in parts if not isinstance(part, Audio)) for name, parts in PROMPTS.items()}
    return {name: parts for name, parts in deaf.items() if name != "audio"}


def said(model: castor.Model, parts: tuple[Part, ...], max_tokens: int) -> list[int]:
    from castor.engine.engine import Engine
    from castor.engine.sample import SamplingConfig

    sequence = model.renderer.encode([Message.user(*parts)], reply=True)
    config = SamplingConfig(max_tokens=max_tokens)
    engine = Engine(model)
    request = engine.submit_tokens(sequence, config)
    while engine.step():
        pass
    return request.said_ids


def test_greedy_answers_are_those_of_transformers(loaded: tuple[Path, Any, castor.Model]) -> None:
    folder, theirs, model = loaded
    prepared = Theirs(folder)
    for name, parts in readable(model).items():
        inputs = prepared.inputs(parts)
        assert (
            model.renderer.encode([Message.user(*parts)], reply=True).ids_T.tolist() == inputs["input_ids"][0].tolist()
        )
        with torch.inference_mode():
            out = theirs.generate(**inputs, max_new_tokens=12, do_sample=False)
        wanted = out[0, inputs["input_ids"].shape[1] :].tolist()
        if wanted[-1] in model.renderer.stop_ids:
            wanted.pop()
        assert said(model, parts, 12) == wanted and wanted, name


def test_what_the_processor_cannot_mean_is_refused(loaded: tuple[Path, Any, castor.Model], tmp_path: Path) -> None:
    import json

    folder, _, model = loaded
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    changes: list[tuple[str, str, Any, str]] = [
        ("image_processor", "patch_size", 16, "patch_size=16, .* .only 4"),
        ("video_processor", "fps", 2, "fps=2, .* .only None"),
    ]
    if model.decoder.config.audio is not None:
        changes.append(("feature_extractor", "hop_length", 80, "hop_length=80, .* .only 160"))
    for part, key, value, message in changes:
        processor = json.loads((folder / "processor_config.json").read_text())
        processor[part][key] = value
        (tmp_path / "processor_config.json").write_text(json.dumps(processor))
        with pytest.raises(ValueError, match=message) as caught:
            castor.load(tmp_path, device="cpu")
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_deaf_model_says_so(tmp_path: Path) -> None:
    published.write_tower_checkpoint(tmp_path, "gemma4 31B")
    with pytest.raises(ValueError, match="sound for a model without audio"):
        castor.load(tmp_path, device="cpu").generate(list(PROMPTS["audio"]), max_tokens=2)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, castor.Model]:
    folder = tmp_path_factory.mktemp("vectors")
    theirs = published.write_tower_checkpoint(folder, "embedding_gemma2")
    return folder, theirs, castor.load(folder, device="cpu")


@torch.inference_mode()
def their_vector(theirs: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return F.normalize(theirs(**inputs).last_hidden_state[0].mean(0), dim=-1)


def test_vectors_are_those_of_transformers(embedder: tuple[Path, Any, castor.Model]) -> None:
    """Any mix of media, all at once in packed batches, against theirs one by one."""
    folder, theirs, model = embedder
    prepared = Theirs(folder, embeds=True)
    wanted = torch.stack([their_vector(theirs, prepared.inputs(parts)) for parts in PROMPTS.values()])
    got = model.embed(*(list(parts) for parts in PROMPTS.values()))
    assert got.shape == (len(PROMPTS), 24) and got.dtype == torch.float32
    assert (got - wanted).abs().max() < 1e-4
    assert (wanted @ wanted.T - torch.eye(len(wanted))).abs().max() < 0.999  # they differ from each other
    torch.testing.assert_close(got.norm(dim=-1), torch.ones(len(got)))
    short = model.embed(*(list(parts) for parts in PROMPTS.values()), dimensions=8)
    torch.testing.assert_close(short, F.normalize(wanted[:, :8], dim=-1), atol=1e-4, rtol=0)


def test_tasks_are_the_checkpoints_own(embedder: tuple[Path, Any, castor.Model], tmp_path: Path) -> None:
    folder, theirs, model = embedder
    prepared = Theirs(folder, embeds=True)
    for task, before in published.PROMPTS.items():
        wanted = their_vector(theirs, prepared.inputs((Text(f"{before}a red circle"),)))
        assert (model.embed("a red circle", task=task)[0] - wanted).abs().max() < 1e-4
    with pytest.raises(ValueError, match="task='STS' is not one of this checkpoint's: Document, Retrieval-query"):
        model.embed("a", task="STS")
    with pytest.raises(ValueError, match="media carry no task"):
        model.embed(PROMPTS["image"][0], task="Document")
    model.save(tmp_path, precision="float32")
    again = castor.load(tmp_path, device="cpu")
    assert torch.equal(again.embed("a", task="Document"), model.embed("a", task="Document"))
    (tmp_path / "config_sentence_transformers.json").unlink()
    with pytest.raises(ValueError, match="has no config_sentence_transformers.json"):
        castor.load(tmp_path, device="cpu").embed("a", task="Document")


def test_many_prompts_are_as_each_alone(embedder: tuple[Path, Any, castor.Model]) -> None:
    from castor.engine.embed import batches

    model = embedder[2]
    texts = ["red circle " * (1 + at * 7 % 23) for at in range(40)]
    together, alone = model.embed(*texts), torch.cat([model.embed(text) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    lengths = [len(text) for text in texts]
    made = list(batches(lengths, 600))
    assert sorted(index for rows in made for row in rows for index in row) == list(range(40)) and len(made) > 1
    for rows in made:
        width = max(lengths[index] for row in rows for index in row)
        assert all(sum(lengths[index] for index in row) <= width for row in rows) and len(rows) * width <= 600
    assert model.embed().shape == (0, 24)


def test_what_a_model_of_vectors_cannot_do_is_said(embedder: tuple[Path, Any, castor.Model]) -> None:
    model = embedder[2]
    for ask in (model.generate, lambda prompt: list(model.stream(prompt))):
        with pytest.raises(ValueError, match="makes vectors and writes no answers"):
            ask("hello")
    with pytest.raises(ValueError, match="no logits"):
        model.logits("hello")
    for wrong in (0, 25):
        with pytest.raises(ValueError, match=f"dimensions={wrong} must be from 1 to 24"):
            model.embed("a", dimensions=wrong)
    with pytest.raises(ValueError, match="a vector of nothing"):
        model.embed("")
    with pytest.raises(ValueError, match="one message from the user"):
        model.embed([Message.user("a"), Message.model("b")])


def test_the_command_line_makes_vectors(
    embedder: tuple[Path, Any, castor.Model], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from castor import cli

    folder, _, model = embedder
    shown = Image.from_pixels(picture(40, 60))
    (tmp_path / "a.png").write_bytes(shown.data)
    given = ["--model", str(folder), "red circle", "--image", str(tmp_path / "a.png"), "--dimensions", "8"]
    assert cli.main(["embed", *given]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["prompt"] for row in rows] == ["red circle", str(tmp_path / "a.png")]
    wanted = model.embed("red circle", [shown], dimensions=8)
    torch.testing.assert_close(torch.tensor([row["vector"] for row in rows]), wanted, atol=1e-6, rtol=0)
    assert cli.main(["embed", "--together", *given, "--out", str(tmp_path / "v.npy")]) == 0
    together = model.embed(["red circle", shown], dimensions=8).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), together, atol=1e-6)
    for wrong, message in ((["--model", "atom", "a"], "no embedding head"), ([], "nothing to embed")):
        assert cli.main(["embed", *wrong]) == 2 and message in capsys.readouterr().err
    assert cli.main(["embed", "a", "--out", "v.txt"]) == 2


def test_frames_of_a_file_are_those_of_the_rule() -> None:
    """Equally spaced ones, and one a second of a video that is stored at less: frames come twice."""
    from castor.tokens.video import VideoRule

    fast, slow = Video(clip(9, 4.0).data), Video(Video.from_frames(np.stack([picture(32, 32)] * 3), fps=0.5).data)
    rule = VideoRule(num_frames=4)
    np.testing.assert_allclose(fast.clip(choose=rule.choose).times_s, np.array([0, 2, 4, 6]) / 4, atol=1e-3)
    seen = slow.clip(choose=VideoRule(fps=1.0, times=None).choose)
    np.testing.assert_allclose(seen.times_s, [0, 0, 2, 2, 4, 4], atol=1e-3)
    assert len(seen.frames_FHWC) == 6 and rule.tell([0.0, 1.0], 2.0, 0)[0] == "00:00 "
