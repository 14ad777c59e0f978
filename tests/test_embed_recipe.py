"""The embedding recipe end to end on a tiny model: pairs, batches of one task, stages, mining, soup, going on."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from castor import recipes
from castor.content import Audio, Image, Text, Video
from castor.data.loader import LoaderConfig
from castor.data.pairs import PairLoader, PairTask
from castor.data.real.sequences import DigitSequence
from castor.diorama.code import AGGREGATES, CHANGES, CHOICES, Program, random_program
from castor.diorama.draw import draw_for
from castor.diorama.pairs import NEEDS_SPEECH_PAIRS, PAIRS, WorldPairs, scene_key
from castor.diorama.parse import parse
from castor.engine.model import Model, load
from castor.log import read_metrics
from castor.models.decoder import Decoder
from castor.models.extend import with_embedding_head, with_vector_adapters
from castor.models.packing import PackConfig, pack_decoder
from castor.recipes.curriculum import world_sources
from castor.recipes.embedding import EmbedConfig, run_embedding, soup_marks
from castor.recipes.mining import filtered_pairs, fused, neighbours
from castor.recipes.pairs import RenderPair, key_of, pair_tasks
from castor.recipes.synthetic import LABELS, QUERIES, synthetic_pairs
from castor.tokens.pairs import pack_pairs
from castor.train.soup import average

SILENT = [name for name in PAIRS if name not in NEEDS_SPEECH_PAIRS]


@pytest.mark.parametrize("name", SILENT)
def test_negatives_differ_from_what_is_right(name: str) -> None:
    for index in range(12):
        pair = PAIRS[name](draw_for(0, "train", name, index))
        assert pair.negative is not None and pair.negative != pair.target
        assert [type(part) for part in pair.negative.parts] == [type(part) for part in pair.target.parts]
        again = PAIRS[name](draw_for(0, "train", name, index))
        assert again.target_key == pair.target_key
        for part, other in zip(
            pair.query.parts + pair.target.parts, again.query.parts + again.target.parts, strict=True
        ):
            if isinstance(part, Video):  # its bytes may differ from one encoding to the next
                assert (part.clip().frames_FHWC == other.clip().frames_FHWC).all()
            else:
                assert part == other


def test_pictures_show_what_their_keys_say() -> None:
    """Read back from pixels: the target has the key's things, the negative has not."""
    for index in range(8):
        pair = PAIRS["composed"](draw_for(1, "train", "composed", index))
        right, wrong = (parse(message.images[0].pixels()) for message in (pair.target, pair.negative))
        assert scene_key(right) == pair.target_key != scene_key(wrong)


def test_training_never_shows_held_out_combinations() -> None:
    for name in ("image_text", "composed"):
        for index in range(60):
            pair = PAIRS[name](draw_for(2, "train", name, index))
            for message in (pair.query, pair.target, pair.negative):
                for part in message.parts if message else ():
                    if isinstance(part, Image):
                        assert not any(thing.is_unseen for thing in parse(part.pixels()).things)


def meaning(program: Program, numbers: list[int]) -> object:
    """What the words say, one word after the other."""
    k, m = program.k, program.m
    keep = {"all": lambda n: True, "even": lambda n: n % 2 == 0, "odd": lambda n: n % 2 == 1,
            "positive": lambda n: n > 0, "negative": lambda n: n < 0, "above": lambda n: n > m,
            "below": lambda n: n < m, "multiple": lambda n: n % m == 0}[program.choice]  # fmt: skip
    change = {"same": lambda n: n, "square": lambda n: n**2, "double": lambda n: n + n, "negate": lambda n: -n,
              "absolute": abs, "add": lambda n: n + k, "remainder": lambda n: n % k,
              "halve": lambda n: n // 2}[program.change]  # fmt: skip
    found = [change(n) for n in numbers if keep(n)]
    return {"sum": sum(found), "largest": max(found or [0]), "smallest": min(found or [0]), "list": found,
            "sorted": sorted(found), "reversed": list(reversed(found)), "count": len(set(found)),
            "first": (found or [0])[0]}[program.aggregate]  # fmt: skip


def test_functions_do_what_their_words_say() -> None:
    rng = random.Random(0)
    for _ in range(80):
        program, numbers, space = random_program(rng), [rng.randint(-9, 9) for _ in range(8)], {}
        exec(program.code(rng), space)
        (function,) = [value for key, value in space.items() if key != "__builtins__"]
        assert function(numbers) == meaning(program, numbers), program
    assert len(AGGREGATES) * len(CHANGES) * len(CHOICES) == 512


def make_loader(model: Model, parts: int = 1, *, mixed: bool = False, **tasks: PairTask) -> PairLoader:
    render = RenderPair(model.renderer, 0.5)
    config = LoaderConfig(num_rows=2, row_tokens=400, num_batches=100, seed=3)
    sources = {name: WorldPairs(name) for name in tasks}
    return PairLoader(config, sources, tasks, render, pack_pairs, num_parts=parts, mixed=mixed)


def test_a_step_has_one_task_and_parts_of_its_own(model: Model) -> None:
    tasks = {"image_text": PairTask(rate=1, pairs=6), "translated": PairTask(rate=1, pairs=4, pool=5)}
    loader = make_loader(model, 2, **tasks)
    seen = set()
    for step in range(8):
        first, second = (loader.make(2 * step + part) for part in range(2))
        (name,) = first.stats.examples
        assert list(second.stats.examples) == [name] and len(first.batch) == tasks[name].pairs // 2
        assert (first.batch.rank, second.batch.rank) == (0, 1)
        if name == "image_text":
            assert not set(first.batch.keys_N2[:, 0].tolist()) & set(second.batch.keys_N2[:, 0].tolist())
        seen.add(name)
    assert seen == set(tasks)
    fresh = make_loader(model, 2, **tasks).make(5).batch
    assert torch.equal(fresh.keys_N2, loader.make(5).batch.keys_N2)
    assert all(torch.equal(a.ids_BT, b.ids_BT) for a, b in zip(fresh.chunks, loader.make(5).batch.chunks, strict=True))


def test_mixed_steps_hold_each_task_as_often_as_steps_of_their_own(model: Model) -> None:
    tasks = {"image_text": PairTask(rate=1, pairs=6), "translated": PairTask(rate=3, pairs=2)}
    loader = make_loader(model, mixed=True, **tasks)
    drawn = [loader._task_of_pair(step, 0, number) for step in range(300) for number in range(3)]
    assert drawn.count("image_text") / len(drawn) == pytest.approx(6 / 12, abs=0.05)
    batch = loader.make(0).batch
    assert len(batch) == 3  # (1 * 6 + 3 * 2) / 4


def test_words_of_tasks_are_dropped_at_random(model: Model) -> None:
    pair = WorldPairs("docstring_code").at(0)
    for share, wanted in ((0.0, {False}), (0.5, {False, True}), (1.0, {True})):
        render, found = RenderPair(model.renderer, share), set()
        for seed in range(12):
            ids = render(pair, random.Random(seed)).query.ids_T.tolist()
            (text,) = model.renderer.decode(ids[1:-1])
            assert isinstance(text, Text)
            found.add(text.text.startswith("task: code retrieval | query: "))
        assert found == wanted
    assert RenderPair(model.renderer, 0.0, hard_negatives=False)(pair, random.Random(0)).negative is None


def test_stages_take_what_the_paper_takes() -> None:
    sources = {name: WorldPairs(name) for name in SILENT}
    pre = pair_tasks(sources, fine=False, generation=0.0, batch_scale=1.0)
    fine = pair_tasks(sources, fine=True, generation=0.25, batch_scale=0.5)
    assert not any("audio" in name or "video" in name for name in pre) and "text_video" in fine
    assert fine["generate"].rate / sum(task.rate for task in fine.values()) == pytest.approx(0.25)
    assert key_of("a") != key_of("b") and key_of("a") == key_of("a")


@pytest.fixture()
def base(model: Model, tmp_path: Path) -> Path:
    """A tiny generating model in a folder; its rows hold the pairs."""
    config = dataclasses.replace(model.renderer.config, patch_size=32, num_frames=2, audio="log_mel")
    vision = dataclasses.replace(model.decoder.config.vision, patch_size=32)
    audio = dataclasses.replace(model.decoder.config.audio, audio_embed_dim=config.frame_dim)
    decoder = Decoder(dataclasses.replace(model.decoder.config, vision=vision, audio=audio)).init_weights(0)
    renderer = type(model.renderer)(
        model.tokenizer, model.renderer.space, config,
        encode_image=model.renderer.encode_image, decode_image=model.renderer.decode_image,
    )  # fmt: skip
    Model(decoder, renderer, model.codec).save(tmp_path / "base", precision="float32")
    return tmp_path / "base"


def settings(base: Path, out: Path, **changed: object) -> EmbedConfig:
    loss = dataclasses.replace(EmbedConfig().loss, dimensions=(16, 8))
    given = {"model": str(base), "out": str(out), "steps": 6, "loss": loss, "batch_scale": 0.04, "processes": 1,
             "compile": False, "num_workers": 0, "num_rows": 2, "row_tokens": 1400, "device": "cpu"}  # fmt: skip
    return EmbedConfig(**(given | changed))


def test_it_runs_goes_on_and_gives_a_model_that_writes_and_embeds(base: Path, tmp_path: Path) -> None:
    said: list[str] = []
    config = settings(base, tmp_path / "run", soup=2, generation=0.3)
    model = run_embedding(config, said.append)
    assert model is not None
    again = load(tmp_path / "run" / "model")
    assert again.embed("red circle", dimensions=8).shape == (1, 8)
    assert again.generate("red", max_tokens=3).role == "model"
    assert again.card["embedding"]["loss"]["dimensions"] == [16, 8]
    before, now = load(base).decoder.state_dict(), model.decoder.state_dict()
    assert any((now[name] - value).abs().max() > 1e-4 for name, value in before.items())
    one = run_embedding(config, said.append)  # everything is there already
    assert all(torch.equal(value, now[name]) for name, value in one.decoder.state_dict().items())
    with pytest.raises(ValueError, match="begun with generation=0.3"):
        run_embedding(dataclasses.replace(config, generation=0.0), said.append)


def test_adapters_leave_what_it_writes_as_it_is(base: Path, tmp_path: Path) -> None:
    """Vectors change, logits do not by a bit; the saved model has both."""
    config = settings(base, tmp_path / "run", adapters=4, soup=2, tasks=("image_text", "composed"))
    model = run_embedding(config, lambda text: None)
    assert model is not None
    before, again = load(base), load(tmp_path / "run" / "model", precision="float32")
    prompt = [Text("how many red circles are there?")]
    assert torch.equal(before.decoder.state_dict()["language_model.norm.weight"], again_norm(again))
    wanted = before.logits(prompt).bfloat16()
    assert (before.logits(prompt) - model.logits(prompt)).abs().max() == 0
    assert (again.logits(prompt).bfloat16() - wanted).abs().max() < 0.1  # its weights are rounded
    bare = with_embedding_head(load(base).decoder, 16, 0)
    adapted = model.decoder.vector_adapters
    assert adapted is not None and max(float(up.detach().abs().max()) for up in adapted.lora_B) > 0
    assert (Model(bare, before.renderer, None).embed("red") - model.embed("red")).abs().max() > 1e-3
    torch.testing.assert_close(again.embed("red"), model.embed("red"), atol=2e-2, rtol=0)
    with pytest.raises(ValueError, match="what writes is frozen"):
        settings(base, tmp_path / "other", adapters=4, generation=0.1)


def test_vectors_are_gone_on_from_and_stems_may_stay(base: Path, tmp_path: Path) -> None:
    """On another base the head and adapters come from `start`; without `stems` those of the layers alone learn."""
    first = run_embedding(settings(base, tmp_path / "first", adapters=4, tasks=("image_text",)), lambda text: None)
    assert first is not None
    given = {"adapters": 4, "tasks": ("image_text",), "start": str(tmp_path / "first" / "model"), "pre_share": 0.0}
    again = run_embedding(settings(base, tmp_path / "again", stems=False, **given), lambda text: None)
    assert again is not None and again.card["embedding"]["start"] == "model"
    old = load(tmp_path / "first" / "model", precision="float32").decoder
    adapters, before = again.decoder.vector_adapters, old.vector_adapters
    assert adapters is not None and before is not None
    ups = zip(adapters.names, adapters.lora_B, before.lora_B, strict=True)
    moved = {name: float((new - was).detach().abs().max()) for name, new, was in ups}
    assert all((moved[name] > 0) == name.startswith("language_model.") for name in moved), moved
    assert any(not name.startswith("language_model.") for name in moved)
    with pytest.raises(ValueError, match="in the model to go on from"):
        run_embedding(settings(base, tmp_path / "other", **given | {"adapters": 2}), lambda text: None)


def test_digit_sequences_are_put_together_as_the_real_ones_are() -> None:
    """The film of three images; both by another way of counting: where each image lies in each frame."""
    images = tuple(np.full((28, 28), value, np.uint8) for value in (50, 100, 200))
    tone = Audio.from_samples(np.sin(np.arange(4000, dtype=np.float32)), 16_000)
    made = DigitSequence(images, (tone, tone, tone))
    frames = made.film(random.Random(3), 8.0).clip(num_frames=16).frames_FHWC[..., 0]
    assert frames.shape == (16, 48, 48) and made.image().shape == (28, 84)
    places = [[int(axis.min()) for axis in np.nonzero(frame)] for frame in frames]
    for start, number in ((0, 5), (5, 5), (10, 6)):
        tops, lefts = zip(*places[start : start + number], strict=True)
        still, moving = (tops, lefts) if len(set(tops)) == 1 else (lefts, tops)
        assert set(still) == {10}
        want = [2, 6, 10, 14, 18] if number == 5 else [2, 5, 8, 12, 15, 18]  # as measured in the set
        assert list(moving) in (want, want[::-1])
    spoken = made.spoken(random.Random(4)).samples()
    again = made.spoken(random.Random(4)).samples()
    assert len(spoken) % 3 == 0 and np.array_equal(spoken, again)


def again_norm(model: Model) -> torch.Tensor:
    return model.decoder.state_dict()["language_model.norm.weight"]


def test_changed_matrices_are_low_rank_sums() -> None:
    """Vectors with adapters are those of a plain model whose matrices have the products added, stems among them."""
    plain = load("atom", device="cpu")
    renderer, bare = plain.renderer, with_embedding_head(plain.decoder, 16, 0)
    adapted = with_vector_adapters(bare, 3)
    adapters = adapted.vector_adapters
    assert adapters is not None and "embed_audio.project" in adapters.names
    changed = {name: value.clone() for name, value in bare.state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, down, up in zip(adapters.names, adapters.lora_A, adapters.lora_B, strict=True):
            up.normal_(0.0, 0.03, generator=generator)
            changed[f"{name}.weight"] += 2 * up @ down
    wanted = with_embedding_head(load("atom", device="cpu").decoder, 16, 0)
    wanted.load_state_dict(changed)
    picture = Image.from_pixels(np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8))
    sound = Audio.from_samples(np.random.default_rng(0).standard_normal(16000).astype(np.float32))
    ours, theirs, before = (
        Model(decoder, renderer, None).embed("red circle", [picture, "in blue"], [sound])
        for decoder in (adapted, wanted, bare)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert (ours - before).abs().amax(1).min() > 1e-3
    with pytest.raises(ValueError, match="embedding_rank=5: this model has"):
        with_vector_adapters(adapted, 5)
    pack_decoder(adapted, PackConfig(bits=8, table_bits=8))
    packed = Model(adapted, renderer, None).embed("red circle", [picture, "in blue"], [sound])
    assert (packed * ours).sum(1).min() > 0.99


def test_it_ends_in_writing_and_learns_from_a_teacher(base: Path, tmp_path: Path) -> None:
    teacher = run_embedding(settings(base, tmp_path / "teacher", steps=2), lambda text: None)
    assert teacher is not None
    config = settings(
        base, tmp_path / "run", write_share=0.34, last_layers=1, teacher=str(tmp_path / "teacher" / "model"),
        mixed_tasks=True, loss=dataclasses.replace(EmbedConfig().loss, dimensions=(16, 8), same_tower=True),
    )  # fmt: skip
    model = run_embedding(config, lambda text: None)
    assert model is not None
    rows = [
        row for stage in ("pre", "fine", "write") for row in read_metrics(tmp_path / "run" / stage / "metrics.jsonl")
    ]
    assert [("apart" in row, "text_loss" in row) for row in rows] == [(True, False)] * 4 + [(False, True)] * 2
    before, now = load(base).decoder.state_dict(), model.decoder.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, now[name])}
    last = f"language_model.layers.{model.decoder.config.text.num_hidden_layers - 1}."
    assert changed and all(name.startswith((last, "language_model.norm.")) for name in changed)
    with pytest.raises(ValueError, match="no pairs of 'cooking' here; there are: image_text"):
        run_embedding(dataclasses.replace(config, tasks=("cooking",), out=str(tmp_path / "no")), lambda text: None)
    with pytest.raises(ValueError, match="another tokenizer, or lays media out"):
        run_embedding(dataclasses.replace(config, teacher="atom-vectors", out=str(tmp_path / "no")), lambda text: None)


def test_its_own_answers_become_pairs(base: Path, tmp_path: Path) -> None:
    """What the model says to a prompt, asked again here, is the query or the label; the media are the prompt's."""
    model, sources = load(base), world_sources(0)
    made = synthetic_pairs(model, sources, 5, tmp_path / "said", lambda text: None)
    assert set(made) <= {QUERIES, LABELS} and made
    for kind, pairs in made.items():
        said, pair = pairs.said[0], pairs.at(0)
        prompt = sources[said.source].example(random.Random(f"{kind}/{said.source}/{said.number}")).prompt
        assert model.generate(list(prompt), max_tokens=64).text == said.text
        told, shown = (pair.query, pair.target) if kind == QUERIES else (pair.target, pair.query)
        assert told.text == said.text and pair.target_key == said.text.casefold()
        media = [part for part in prompt[-1].parts if not isinstance(part, Text)]
        assert [part for part in shown.parts if not isinstance(part, Text)] == media
    again = synthetic_pairs(model, sources, 5, tmp_path / "said", lambda text: None)
    assert {kind: pairs.said for kind, pairs in again.items()} == {kind: pairs.said for kind, pairs in made.items()}
    tasks = pair_tasks(made, fine=True, generation=0.0, batch_scale=1.0)
    assert set(tasks) == set(made)


def test_two_processes_do_what_the_loss_of_all_asks(base: Path, tmp_path: Path) -> None:
    """A run over processes learns: exactness is tested with the loss."""
    config = settings(base, tmp_path / "two", processes=2, steps=3, pre_share=0.0)
    model = run_embedding(config, lambda text: None)
    assert model is not None and (tmp_path / "two" / "fine.json").exists()


def test_settings_are_checked_and_the_recipe_is_listed() -> None:
    assert "vectors" in (recipes.RECIPES["embed"].__doc__ or "")
    wrongs = ({"generation": 1.0}, {"pre_share": -0.1}, {"soup": 0}, {"minutes": 0.0}, {"steps": -1}, {"adapters": -1},
              {"pre_share": 0.5, "write_share": 0.5}, {"soup": 2, "write_share": 0.1})  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            EmbedConfig(**wrong)


def test_soup_is_a_weighted_mean() -> None:
    a, b = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 6.0])}
    assert average([a, b])["w"].tolist() == [2.0, 4.0]
    assert average([a, b], [3, 1])["w"].tolist() == [1.5, 3.0]
    for states, weights in (([a], [1, 2]), ([a, {"v": a["w"]}], []), ([a, b], [0, 0])):
        with pytest.raises(ValueError):
            average(states, weights)
    assert soup_marks(100, 1) == [100] and soup_marks(100, 4) == [75, 83, 91, 100]


def test_mining_takes_near_targets_of_another_meaning() -> None:
    near = np.array([[0.2, 0.9, 0.8, 0.1], [0.1, 0.9, 0.2, 0.3], [0.5, 0.4, 0.6, 0.7], [0.9, 0.8, 0.7, 0.1]])
    same = np.eye(4, dtype=bool)
    same[0, 1] = same[1, 0] = True
    assert neighbours(near[0], same[0], 2) == [2, 3]
    assert filtered_pairs(near, same, 0.25) == [1]
    assert filtered_pairs(near, same, 1.0) == [0, 1, 2, 3]
    scores = [np.array([3.0, 2.0, 1.0]), np.array([1.0, 3.0, 2.0])]
    by_hand = [1 / 61 + 1 / 63, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62]
    assert fused(scores).tolist() == pytest.approx(by_hand)


def test_published_embedders_learn_through_the_same_recipe(tmp_path: Path) -> None:
    """A random checkpoint in EmbeddingGemma 2's layout, its own head and its own words before texts."""
    pytest.importorskip("transformers")
    from published import write_tower_checkpoint

    (tmp_path / "gemma").mkdir()
    write_tower_checkpoint(tmp_path / "gemma", "embedding_gemma2")
    before = load(tmp_path / "gemma").decoder.state_dict()
    dim = load(tmp_path / "gemma").decoder.config.text.embedding_dim
    loss = dataclasses.replace(EmbedConfig().loss, dimensions=(dim, dim // 2))
    config = settings(
        tmp_path / "gemma", tmp_path / "run", loss=loss, steps=2, pre_share=0.9, batch_scale=0.02, row_tokens=2000
    )
    model = run_embedding(config, lambda text: None)
    assert model is not None
    again = load(tmp_path / "run" / "model")
    assert again.embed("red circle", task="Retrieval-query").shape == (1, dim)
    now = again.decoder.state_dict()
    assert any((now[name].float() - value.float()).abs().max() > 0 for name, value in before.items())
    with pytest.raises(ValueError, match="does not write"):
        run_embedding(dataclasses.replace(config, generation=0.5, out=str(tmp_path / "other")), lambda text: None)
