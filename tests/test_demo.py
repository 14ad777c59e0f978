"""The demo with a tiny random model: one page that holds everything and shows what the model was given."""

import html.parser
import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from castor.content import Audio, Image, Message, Video
from castor.demo import Drawing, Inputs, Item, Question, run_demo, user_inputs
from castor.demo.items import item_from_file, sample_inputs
from castor.demo.run import Answered
from castor.demo.seen import heat, see, spectrogram_picture, waveform_peaks
from castor.diorama.scene import Scene
from castor.engine.model import Model
from castor.models.codec import CodecConfig, ImageCodec
from castor.models.config import AudioConfig, ModelConfig, TextConfig, VisionConfig
from castor.models.decoder import Decoder
from castor.tokens.render import RenderConfig, Renderer
from castor.tokens.space import IdSpace
from castor.tokens.text import train_tokenizer

WORDS = "how many red shapes are there what is said here draw a large circle left of a small blue square"


@pytest.fixture(scope="module")
def model() -> Model:
    words = WORDS.split()
    texts = [" ".join(words[at % len(words) :]) for at in range(40)]
    tokenizer = train_tokenizer(texts, vocab_size=330, num_threads=1)
    codec = ImageCodec(CodecConfig()).eval()
    space = IdSpace(num_text=tokenizer.vocab_size, num_codes=codec.config.num_codes)
    text = TextConfig(
        vocab_size=space.vocab_size,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        global_head_dim=16,
        sliding_window=64,
        bos_token_id=None,
        eos_token_id=space.special("<turn|>"),
    )
    config = ModelConfig(
        text=text,
        vision=VisionConfig(patch_size=32, pooling_kernel_size=1, mm_embed_dim=32, mm_posemb_size=64),
        audio=AudioConfig(audio_embed_dim=640),
        image_token_id=space.special("<|image|>"),
        audio_token_id=space.special("<|audio|>"),
        video_token_id=space.special("<|video|>"),
    )
    renderer = Renderer(tokenizer, space, RenderConfig(), encode_image=codec.encode, decode_image=codec.decode)
    return Model(Decoder(config).init_weights(0), renderer, codec)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (16, 64, 64, 3), dtype=np.uint8)
    tone = 0.3 * np.sin(np.arange(16000) / 16000 * 2 * np.pi * 440).astype(np.float32)
    made = {
        "a.png": Image.from_pixels(rng.integers(0, 255, (96, 160, 3), dtype=np.uint8)).data,
        "b.wav": Audio.from_samples(tone).data,
        "c.mp4": Video.from_frames(frames, fps=8.0, samples_S=np.tile(tone, 2)).data,
    }
    for name, data in made.items():
        (folder / name).write_bytes(data)
    question = Question(text="How many <red> shapes?", truth="2 & more", note="<never> seen")
    items = [item_from_file(folder / name) for name in made]
    items[0] = Item(kind="image", path=folder / "a.png", title="A <picture>", questions=(question, question))
    return Inputs(items=tuple(items), drawings=(Drawing(prompt="Draw a large circle.", note="In <words>"),))


class Links(html.parser.HTMLParser):
    """Collects every address a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "poster")]


def test_the_page_holds_everything(model: Model, inputs: Inputs, tmp_path: Path) -> None:
    terminal = io.StringIO()
    path = run_demo(
        model,
        inputs,
        tmp_path / "out" / "demo.html",
        model_name="tiny",
        console=Console(file=terminal, width=160),
    )
    page = path.read_text(encoding="utf-8")
    links = Links()
    links.feed(page)
    assert len(links.found) >= 3 + 1 + 16
    assert all(link.startswith("data:") for link in links.found)
    assert "http://" not in page and "https://" not in page and "url(" not in page and "@import" not in page
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page and "pixelated" in page
    assert "How many &lt;red&gt; shapes?" in page and "2 &amp; more" in page and "<red>" not in page
    assert "&lt;never&gt; seen" in page and "In &lt;words&gt;" in page
    told = terminal.getvalue()
    assert "demo.html" in told and "it may be wrong" in told and "What was asked" in told


def test_what_is_shown_is_what_was_given(model: Model) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    sequence = model.renderer.encode([Message.user(Image.from_pixels(pixels), "what")], reply=True)
    seen = see(model.renderer, sequence)
    assert len(seen.pictures) == 1 and (seen.pictures[0] == pixels).all()
    assert seen.num_media_tokens == 16 and seen.num_tokens == len(sequence)
    assert seen.spectrogram_HW3 is None


def test_sound_is_shown_with_low_tones_at_the_bottom(model: Model) -> None:
    tone = 0.3 * np.sin(np.arange(16000) / 16000 * 2 * np.pi * 200).astype(np.float32)
    seen = see(model.renderer, model.renderer.encode([Message.user(Audio.from_samples(tone))]))
    assert seen.spectrogram_HW3 is not None and seen.spectrogram_HW3.shape[0] == 80
    brightness_H = seen.spectrogram_HW3.astype(int).sum(axis=(1, 2))
    assert brightness_H.argmax() > 60
    assert spectrogram_picture(np.zeros((2, 320), np.float32), 80).shape == (80, 8, 3)
    assert heat(np.array([[0.0, 1.0]])).tolist() == [[[8, 10, 28], [253, 240, 178]]]


def test_waveform_peaks() -> None:
    assert waveform_peaks(np.array([0.0, 0.5, -1.0, 0.25]), 2) == [0.5, 1.0]
    assert waveform_peaks(np.zeros(0), 3) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("answer", "truth", "verdict"),
    [
        ("Two.", "two", "right"),
        ("three", "two", "wrong"),
        ("a red circle left of a cross", "a red circle left of a square", "close"),
        ("?", None, None),
    ],
)
def test_verdicts(answer: str, truth: str | None, verdict: str | None) -> None:
    question = Question(text="?", truth=truth)
    answered = Answered(question=question, answer=answer, num_prompt_tokens=1, num_answer_tokens=1, seconds=0.0)
    assert answered.verdict == verdict


def test_own_files(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(Image.from_pixels(np.zeros((4, 4, 3), np.uint8)).data)
    inputs = user_inputs([path], "Why?", ["Draw a star."])
    assert inputs.items[0].questions[0].text == "Why?" and inputs.items[0].kind == "image"
    assert inputs.drawings[0].prompt == "Draw a star."
    with pytest.raises(ValueError, match=re.escape(".xyz")):
        user_inputs([tmp_path / "x.xyz"])
    with pytest.raises(ValueError, match="no such file"):
        user_inputs([tmp_path / "y.png"])


def test_the_samples_ask_in_every_language_and_say_what_training_never_shows() -> None:
    inputs = sample_inputs()
    notes = [entry.note for item in inputs.items for entry in item.questions] + [each.note for each in inputs.drawings]
    for name in ("Chinese", "Spanish", "French", "German", "Hindi"):
        assert notes.count(name) == 2, "a question and a drawing"
    for drawing in inputs.drawings:
        assert drawing.scene is not None
        things = Scene.from_json(dict(drawing.scene)).things
        assert any(thing.is_unseen for thing in things) == ("never" in drawing.note), drawing.prompt
