"""Answers: batched = single, streamed = whole, cached = full forward, pictures held to their grid."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import castor
from castor.config import to_dict
from castor.content import Audio, Image, Message, Text
from castor.engine.engine import Engine, EngineConfig
from castor.engine.model import Model
from castor.engine.sample import Grammar, SamplingConfig, pick
from castor.models.decoder import Decoder
from castor.tokens.render import RenderConfig


def picture(seed: int = 0) -> Image:
    rng = np.random.default_rng(seed)
    return Image.from_pixels(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8))


def sound() -> Audio:
    return Audio.from_samples(np.sin(np.arange(4000, dtype=np.float32) / 9))


PROMPTS = [
    ["how many red circles?"],
    [picture(), "what is it?"],
    ["a much longer text about red circles and blue squares, so that rows differ", sound()],
    [picture(1), picture(2), "which?"],
]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_batched_equals_single(model: Model, temperature: float) -> None:
    options = {"max_tokens": 12, "temperature": temperature, "seed": 3}
    together = model.generate_batch(PROMPTS, **options)
    alone = [model.generate(prompt, **options) for prompt in PROMPTS]
    assert [m.to_json() for m in together] == [m.to_json() for m in alone]


def test_streamed_equals_whole(model: Model) -> None:
    for seed in range(6):
        options = {"max_tokens": 40, "temperature": 1.5, "seed": seed}
        whole = model.generate(PROMPTS[1], **options)
        streamed = list(model.stream(PROMPTS[1], **options))
        joined = "".join(part.text for part in streamed if isinstance(part, Text))
        assert joined == whole.text
        assert [p for p in streamed if isinstance(p, Image)] == list(whole.images)


def test_greedy_follows_the_logits(model: Model) -> None:
    """Every id of a cached greedy answer is the argmax of an uncached forward over all before it."""
    from castor.engine.engine import Engine
    from castor.tokens.pack import collate
    from castor.tokens.sequence import Sequence

    messages = [Message.user(picture(), "x")]
    engine = Engine(model)
    request = engine.submit(messages, SamplingConfig(max_tokens=30, image_temperature=0.0))
    while engine.step():
        pass
    sequence, said = model.renderer.encode(messages, reply=True), request.said_ids
    grammar = Grammar(model.renderer.space, may_draw=True)
    for index in range(len(said)):
        ids = np.concatenate([sequence.ids_T, np.array(said[:index], dtype=np.int32)])
        extra = len(ids) - len(sequence)
        longer = Sequence(
            ids_T=ids,
            is_target_T=np.zeros(len(ids), dtype=bool),
            block_T=np.concatenate([sequence.block_T, np.full(extra, -1, dtype=np.int32)]),
            patches_PC=sequence.patches_PC,
            patch_xy_P2=sequence.patch_xy_P2,
            patch_at_P=sequence.patch_at_P,
            frames_SF=sequence.frames_SF,
            frame_at_S=sequence.frame_at_S,
            clip_S=sequence.clip_S,
        )
        with torch.inference_mode():
            logits_V = model.decoder(collate([[longer]], len(ids)))[0, -1]
        allowed = grammar.allowed_V(said[:index])
        assert int(logits_V.masked_fill(~allowed, -torch.inf).argmax()) == said[index]


def test_a_begun_picture_is_finished_on_its_grid(model: Model) -> None:
    """Push the model to draw; whatever it says, the picture has the sides it stated, even past the limit."""
    space, renderer = model.renderer.space, model.renderer
    with torch.no_grad():
        weight = model.decoder.language_model.embed_tokens.weight
        weight[space.special("<|draw>")] *= 50
    for seed in range(4):
        message = model.generate("draw", max_tokens=4, temperature=2.0, seed=seed)
        for image in message.images:
            height, width, _ = image.pixels().shape
            assert height % 8 == 0 and width % 8 == 0 and (height // 8) * (width // 8) <= 1024
            assert renderer.encode_image(image.pixels()).shape == (height // 8, width // 8)
    assert any(model.generate("draw", max_tokens=4, temperature=2.0, seed=s).images for s in range(8))


def test_grammar_allows_only_what_may_follow(model: Model) -> None:
    space = model.renderer.space
    grammar = Grammar(space, may_draw=True)
    draw, end = space.special("<|draw>"), space.special("<draw|>")
    text = grammar.allowed_V([])
    assert text[draw] and text[model.renderer.stop_id] and not text[space.first_code] and not text[0]
    assert not Grammar(space, may_draw=False).allowed_V([])[draw]
    sides = grammar.allowed_V([draw]).nonzero().flatten().tolist()
    assert sides == [space.grid(n) for n in range(1, 33)]
    begun = [draw, space.grid(1), space.grid(2)]
    assert grammar.allowed_V(begun).nonzero().flatten().tolist() == list(range(space.first_code, space.end))
    full = [*begun, space.first_code, space.first_code + 5]
    assert grammar.allowed_V(full).nonzero().flatten().tolist() == [end]
    assert torch.equal(grammar.allowed_V([*full, end]), text)


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    generator = torch.Generator().manual_seed(0)
    config = SamplingConfig(temperature=0.7)
    draws = torch.tensor([pick(logits, config, generator) for _ in range(4000)])
    share = torch.bincount(draws, minlength=4) / 4000
    assert torch.allclose(share, (logits / 0.7).softmax(-1), atol=0.03)


def test_top_k_and_top_p_cut_the_tail() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()

    def seen(**options: float) -> set[int]:
        generator = torch.Generator().manual_seed(0)
        return {pick(logits, SamplingConfig(temperature=1.0, **options), generator) for _ in range(500)}

    assert seen(top_k=2) == {0, 1}
    assert seen(top_p=0.5) == {0}
    assert seen(top_p=0.6) == {0, 1}
    assert seen(top_p=1.0) == {0, 1, 2, 3}


def test_stop_texts_end_and_are_left_out(model: Model) -> None:
    options = {"max_tokens": 40, "temperature": 1.5, "seed": 1}
    text = model.generate("x", **options).text
    stop = text[5:8]
    assert stop.strip(), "the seed gives a text to cut"
    cut = model.generate("x", stop=stop, **options).text
    assert cut == text[: text.find(stop)]
    streamed = "".join(p.text for p in model.stream("x", stop=stop, **options) if isinstance(p, Text))
    assert streamed == cut


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature=-1"),
        ({"image_temperature": -0.5}, "image_temperature=-0.5"),
        ({"top_p": 0}, "top_p=0"),
        ({"top_k": 0}, "top_k=0"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"temperature": float("inf")}, "temperature=inf must be finite"),
        ({"seed": 2**63}, "does not fit 64 bits"),
        ({"max_tokens": 10**9}, "more than the 2048 that this model takes"),
        ({"temprature": 1}, "did you mean 'temperature'"),
    ],
)
def test_bad_options_are_named(model: Model, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate("x", **options)


def test_logits_have_a_row_for_each_token(model: Model) -> None:
    messages = [Message.user(picture(), "how many?"), Message.model("3")]
    logits_TV = model.logits(messages)
    assert logits_TV.shape == (len(model.renderer.encode(messages)), model.renderer.space.vocab_size)
    assert logits_TV.dtype == torch.float32


def test_embed_is_reserved(model: Model) -> None:
    with pytest.raises(ValueError, match="no embedding head"):
        model.embed("x")


def test_a_saved_model_answers_the_same(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "m", precision="float32")
    again = castor.load(tmp_path / "m", device="cpu")
    options = {"max_tokens": 16, "temperature": 1.0, "seed": 5}
    # the codec is kept in bfloat16, so pictures may differ in the last bit; words may not
    assert again.generate(PROMPTS[1], **options).text == model.generate(PROMPTS[1], **options).text


def test_a_temperature_near_zero_takes_the_likeliest() -> None:
    logits = torch.tensor([3.0, 3.5, -torch.inf, 1.0])
    assert pick(logits, SamplingConfig(temperature=1e-42), torch.Generator().manual_seed(0)) == 1


def test_a_prompt_too_long_is_refused(model: Model) -> None:
    with pytest.raises(ValueError, match=r"\d+ tokens and an answer of up to 5 are more than the 2048"):
        model.generate("1" * 2050, max_tokens=5)
    with pytest.raises(ValueError, match="tokens are more than the 2048"):
        model.logits("1" * 2050)


def test_a_model_without_codes_speaks(model: Model) -> None:
    """Without image codes the vocabulary may end right where codes would begin."""
    from castor.tokens.render import Renderer
    from castor.tokens.space import IdSpace

    space = IdSpace(num_text=model.tokenizer.vocab_size - model.tokenizer.vocab_size % 64 + 64, num_codes=0)
    assert space.vocab_size == space.first_code
    text = dataclasses.replace(model.decoder.config.text, vocab_size=space.vocab_size)
    decoder = Decoder(dataclasses.replace(model.decoder.config, text=text)).init_weights(0)
    silent = Model(decoder, Renderer(model.tokenizer, space, model.renderer.config), None)
    with torch.no_grad():  # ids that the small tokenizer does not have are never likely
        decoder.language_model.embed_tokens.weight[model.tokenizer.vocab_size :] = 0
    assert not silent.generate("x", max_tokens=3).images


OTHER_SPACE = json.dumps({"space": {"num_text": 500, "num_codes": 9}, "renderer": to_dict(RenderConfig())})


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("castor.json", "{}", "needs the objects space and renderer"),
        ("castor.json", "[" * 100_000, "not valid JSON"),
        ("castor.json", '{"space": {"num_text": 500, "num_codes": 9}, "renderer": {}}', "renderer.audio is missing"),
        ("castor.json", OTHER_SPACE, "states 500 text pieces"),
        ("config.json", "[]", "must be a JSON object"),
        ("tokenizer.model", "junk", "tokenizer.model: not a SentencePiece model"),
        ("codec.json", "{}", "does not fit codec.json"),
        ("model.safetensors", "junk", "not a complete safetensors file"),
    ],
)
def test_a_broken_model_folder_names_its_file(model: Model, tmp_path: Path, name: str, body: str, message: str) -> None:
    model.save(tmp_path)
    (tmp_path / name).write_text(body, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        castor.load(tmp_path, device="cpu")


def test_a_name_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a model folder"):
        castor.load(tmp_path)


@pytest.mark.parametrize("prompt", [[], [Message.user("x"), "y"]])
def test_a_prompt_is_never_guessed(model: Model, prompt: list) -> None:
    with pytest.raises(ValueError, match="a prompt is"):
        model.generate(prompt)


def test_a_reply_that_must_draw_begins_with_a_picture(model: Model) -> None:
    engine = Engine(model, EngineConfig(cache_tokens=20_000))
    config = SamplingConfig(must_draw=True, max_tokens=4, temperature=1.0)
    asked = [engine.submit([Message.user("2 + 2?")], dataclasses.replace(config, seed=seed)) for seed in range(8)]
    while engine.step():
        pass
    assert {request.said_ids[0] for request in asked} == {model.renderer.space.special("<|draw>")}
    assert any(isinstance(request.result().message.parts[0], Image) for request in asked)
    with pytest.raises(ValueError, match="must_draw"):
        SamplingConfig(must_draw=True, may_draw=False)
