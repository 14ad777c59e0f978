"""Fine-tuning: broken lines are named, every example comes once an epoch, resumed = uninterrupted, and it learns."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import castor
from castor import cli
from castor.content import Image, Message
from castor.data.epochs import EpochLoader, packed
from castor.data.own import BrokenLines, OwnExamples
from castor.engine.model import Model
from castor.log import read_metrics
from castor.models.codec import ImageCodec
from castor.models.decoder import Decoder
from castor.models.extend import drawing_ids, extended_decoder, train_rows
from castor.nn.lora import LoraConfig, adapters, add_adapters
from castor.recipes.finetune import Finetune, FinetuneConfig, run_finetune
from castor.recipes.senses import add_drawing
from castor.tokens.pack import collate
from castor.tokens.render import Renderer
from castor.tokens.space import IdSpace
from castor.train.fit import fit
from castor.train.objective import next_token

COLOURS = ("red", "blue", "größer", "niño")


def picture(index: int, side: int = 16) -> Image:
    """A picture of one grey, which differs from those of its neighbours."""
    return Image.from_pixels(np.full((side, side, 3), 40 * index % 256, np.uint8))


def write(path: Path, *lines: Any) -> str:
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return str(path)


def turns(*messages: Message) -> dict[str, Any]:
    return {"contents": [message.to_json() for message in messages]}


@pytest.fixture
def examples(tmp_path: Path) -> str:
    """A dozen examples with a picture in every third."""
    lines = []
    for index in range(12):
        shown = (picture(index),) if index % 3 == 0 else ()
        answer = " ".join([COLOURS[index % 4]] * (1 + index % 3))
        lines.append(turns(Message.user(*shown, f"how many {index}"), Message.model(answer)))
    return write(tmp_path / "own.jsonl", *lines)


@pytest.fixture
def saved(model: Model, tmp_path: Path) -> str:
    """The tiny model in a folder."""
    model.save(tmp_path / "base", precision="float32")
    return str(tmp_path / "base")


@pytest.fixture
def config(saved: str, examples: str, tmp_path: Path) -> FinetuneConfig:
    return FinetuneConfig(
        model=saved,
        examples=(examples,),
        out=str(tmp_path / "run"),
        epochs=2,
        batch_size=4,
        rank=4,
        learning_rate=5e-3,
        answers=2,
        max_tokens=8,
        device="cpu",
        save_every_s=0.0,
    )


# The examples


def test_every_broken_line_is_named(model: Model, tmp_path: Path) -> None:
    good = turns(Message.user("how many"), Message.model("two"))
    not_a_picture = {"inlineData": {"mimeType": "image/png", "data": "aGVsbG8="}}
    broken = {
        2: '{"contents": [',
        4: {"contents": [{"parts": [{"fileData": {"fileUri": "missing.png"}}]}, good["contents"][1]]},
        5: {
            "contents": [
                {"parts": [not_a_picture]},
                good["contents"][1],
            ]
        },
        7: turns(Message.user("how many")),
        8: turns(Message.user("how many " * 300), Message.model("two")),
        9: {"contents": []},
        10: turns(Message.user("how many"), Message.model("")),
        11: {**good, "weight": 3},
        12: [1, 2],
    }
    said = {
        2: "not valid JSON",
        4: "missing.png",
        5: r"parts\[0\].inlineData",
        7: "no model turn to learn: its last turn is the user's",
        8: r"\d tokens long, more than row_tokens=64",
        9: "no turns in it",
        10: "the model's last turn is empty",
        11: "unknown key 'weight'",
        12: "must be a JSON object, not list",
    }
    path = write(tmp_path / "x.jsonl", *[broken.get(number, good) for number in range(1, 13)])
    with pytest.raises(BrokenLines, match="9 of 12 lines cannot be learned from") as caught:
        OwnExamples([path], lambda example: model.renderer.encode(example.messages), row_tokens=64)
    listed = str(caught.value).splitlines()[1:]
    for line, (number, reason) in zip(listed, said.items(), strict=True):
        assert line.startswith(f"  {path}, line {number}: ")
        with pytest.raises(ValueError, match=reason):
            raise ValueError(line)


def test_no_more_than_twenty_are_listed_and_all_are_counted(
    model: Model, tmp_path: Path, saved: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "x.jsonl", *["{"] * 23)
    assert cli.main(["train", "finetune", f"model={saved}", f"examples={path}", f"out={tmp_path / 'run'}"]) == 2
    told = capsys.readouterr().err
    assert "23 of 23 lines" in told and "line 20:" in told and "line 21:" not in told and "and 3 more" in told
    assert told.count("\n") == 22 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(("text", "problem"), [(None, "no such file of examples"), ("\n \n", "no examples in it")])
def test_a_file_that_is_missing_or_empty(model: Model, tmp_path: Path, text: str | None, problem: str) -> None:
    if text is not None:
        (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(ValueError, match=problem):
        OwnExamples([tmp_path / "x.jsonl"], lambda example: None, row_tokens=64)  # type: ignore[arg-type]


def test_all_forms_of_a_line_are_one_example(renderer: Renderer, tmp_path: Path) -> None:
    asked, wanted = {"role": "user", "parts": [{"text": "how"}]}, {"role": "model", "parts": [{"text": "red"}]}
    system = {"parts": [{"text": "blue"}]}
    chat = [{"role": "user", "content": "how"}, {"role": "assistant", "content": "red"}]
    plain = [
        {"contents": [asked, wanted], "task": "t", "language": "de"},
        {"contents": [asked, wanted]},
        {"messages": [asked, wanted]},
        {"messages": chat},
        {"text_input": "how", "output": "red"},
    ]
    led = [
        {"systemInstruction": system, "contents": [asked, wanted]},
        {"contents": [{"role": "system", **system}, asked, wanted]},
        {"messages": [{"role": "system", "content": "blue"}, *chat]},
    ]
    path = write(tmp_path / "x.jsonl", *plain, *led)
    own = OwnExamples([path], lambda example: renderer.encode(example.messages), row_tokens=64)
    for chosen, size in ((range(5), 2), (range(5, 8), 3)):
        assert len({own.example(index).messages for index in chosen}) == 1
        assert [len(own.example(index).messages) for index in chosen] == [size] * len(chosen)
    assert own.task(0) == "t" and own.task(1) == "own"


def own_examples(path: str, renderer: Renderer, **more: Any) -> OwnExamples:
    return OwnExamples([path], lambda example: renderer.encode(example.messages), row_tokens=128, **more)


def test_every_example_comes_once_an_epoch_in_a_new_order(renderer: Renderer, examples: str) -> None:
    loader = EpochLoader(own_examples(examples, renderer), range(1, 12), batch_size=4, seed=3)
    epochs = [[loader.indices(epoch * 3 + at) for at in range(3)] for epoch in range(4)]
    for epoch in epochs:
        assert sorted(sum(epoch, [])) == list(range(1, 12)) and [len(batch) for batch in epoch] == [4, 4, 3]
    assert len({str(epoch) for epoch in epochs}) == 4
    assert str(EpochLoader(loader.examples, range(1, 12), batch_size=4, seed=4).indices(0)) != str(epochs[0][0])


def test_batches_do_not_depend_on_what_came_before_or_was_kept(renderer: Renderer, examples: str) -> None:
    kept, read = own_examples(examples, renderer), own_examples(examples, renderer, keep_bytes=0)
    one, two = (EpochLoader(own, range(12), batch_size=5) for own in (kept, read))
    stream = one.batches(0)
    for index in range(7):
        a, b = next(stream), next(two.batches(index))
        assert a.index == b.index == index and a.stats.examples == b.stats.examples
        for field in dataclasses.fields(a.batch):
            assert torch.equal(getattr(a.batch, field.name), getattr(b.batch, field.name)), field.name


def test_packing_changes_no_loss_and_only_model_turns_count(model: Model, examples: str) -> None:
    own = own_examples(examples, model.renderer)
    loss = next_token(model.decoder, model.renderer.space.first_code)
    sequences = [own.sequence(index) for index in range(12)]
    together = packed(sequences, 128)
    assert together.ids_BT.shape[0] < 12 and together.num_targets == sum(int(s.is_target_T.sum()) for s in sequences)
    with torch.no_grad():
        alone = [loss(collate([[sequence]], len(sequence))) for sequence in sequences]
        total, count, _ = loss(together)
    assert float(count) == sum(float(part[1]) for part in alone)
    assert float(total) == pytest.approx(sum(float(part[0]) for part in alone), rel=1e-5)
    words = [model.tokenizer.encode(own.example(index).answer.text) for index in range(12)]
    assert float(count) == sum(map(len, words)) + 12  # and the end of each turn


# The run


def trained(folder: Path) -> dict[str, torch.Tensor]:
    from castor.checkpoint import load_tensors

    file = next(path for path in (folder / "adapter", folder / "model") if path.is_dir()) / "x"
    name = "adapter_model.safetensors" if file.parent.name == "adapter" else "model.safetensors"
    return load_tensors(file.with_name(name))


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_a_run_learns_and_resumed_equals_uninterrupted(
    config: FinetuneConfig, tmp_path: Path, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout included: the random numbers go on where they were."""
    config = dataclasses.replace(config, method=method, dropout=0.0 if method == "full" else 0.2)
    report = run_finetune(config, say=lambda _: None)
    assert report is not None and report["after"]["loss"] < report["before"]["loss"]
    parted, whole_fit = dataclasses.replace(config, out=str(tmp_path / "parted")), fit
    for stop in (2, 3):  # ended after two steps and after one more
        monkeypatch.setattr(
            "castor.recipes.finetune.fit",
            lambda *args, stop=stop, **more: whole_fit(*args, **more, stop_after=stop),
        )
        assert run_finetune(parted, say=lambda _: None) is None
    monkeypatch.undo()
    again = run_finetune(parted, say=lambda _: None)
    assert again is not None and again["before"] == report["before"] and again["after"] == report["after"]
    one, two = trained(tmp_path / "run"), trained(tmp_path / "parted")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    rows = [read_metrics(tmp_path / run / "tune" / "metrics.jsonl") for run in ("run", "parted")]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]] and len(rows[0]) == 6
    with pytest.raises(ValueError, match="begun with seed=0, not 1"):
        run_finetune(dataclasses.replace(config, seed=1), say=lambda _: None)


def test_ctrl_c_saves_and_the_same_command_goes_on(
    config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = EpochLoader.batches

    def interrupted(self: EpochLoader, start: int = 0) -> Iterator[Any]:
        for loaded in make(self, start):
            if loaded.index == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield loaded

    monkeypatch.setattr(EpochLoader, "batches", interrupted)
    assert run_finetune(config, say=lambda _: None) is None
    assert (tmp_path / "run" / "tune" / "state.safetensors").is_file() and not (tmp_path / "run" / "adapter").exists()
    monkeypatch.setattr(EpochLoader, "batches", make)
    assert run_finetune(config, say=lambda _: None) is not None
    whole = dataclasses.replace(config, out=str(tmp_path / "whole"))
    run_finetune(whole, say=lambda _: None)
    one, two = trained(tmp_path / "run"), trained(tmp_path / "whole")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_only_adapters_change_and_only_they_are_saved(config: FinetuneConfig, tmp_path: Path) -> None:
    run = Finetune(config, say=lambda _: None)
    before = {name: value.clone() for name, value in run.model.decoder.state_dict().items()}
    assert run.train()
    changed = {name for name, value in run.model.decoder.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "lora" in name}
    from castor.checkpoint import load_tensors

    state = load_tensors(run.stage / "state.safetensors")
    assert not [name for name in state if name.startswith("model|") and ".base" in name]
    state_names = {name.split("|")[1] for name in state if name.startswith("optim|")}
    assert state_names == changed


def test_too_little_memory_is_said_before_the_first_step(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("castor.recipes.finetune.available_bytes", lambda device: 1000)
    with pytest.raises(ValueError, match=r"gradients and optimizer need .* GB beside .*method=lora"):
        run_finetune(dataclasses.replace(config, method="full"))
    assert not Path(config.out).exists()


def test_examples_that_changed_are_not_gone_on_with(config: FinetuneConfig) -> None:
    Finetune(config, say=lambda _: None)
    path = Path(config.examples[0])
    path.write_text(path.read_text().replace("how many 1", "how many 2"))
    with pytest.raises(ValueError, match="the examples have changed"):
        Finetune(config, say=lambda _: None)


def test_minutes_become_steps_once(config: FinetuneConfig) -> None:
    config = dataclasses.replace(config, minutes=0.01)
    first = Finetune(config, say=lambda _: None)
    before = {name: value.clone() for name, value in first.model.decoder.state_dict().items()}
    steps = first.num_steps()
    assert steps == max(1, round(0.6 / first.notes.values["step_s"]))
    assert all(torch.equal(value, before[name]) for name, value in first.model.decoder.state_dict().items())
    assert Finetune(config, say=lambda _: None).num_steps() == steps


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"epochs": 0}, "epochs"),
        ({"held_out": 1.0}, "held_out"),
        ({"steps": 3, "minutes": 1.0}, "give one of them"),
        ({"rank": 0}, "rank=0"),
        ({"senses": "draw"}, "go together"),
        ({"method": "rows"}, "method=rows"),
        ({"senses": "draw", "codec": "x", "weight_decay": 0.1}, "weight_decay=0.1"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(changes: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        FinetuneConfig(**changes)


def test_the_command_line_trains_answers_and_merges(
    config: FinetuneConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = config.model, str(tmp_path / "run")
    settings = [f"model={base}", f"examples={config.examples[0]}", f"out={out}", "steps=3", "device=cpu", "answers=1"]
    assert cli.main(["train", "finetune", *settings, "method=lora", "rank=2", "learning_rate=0.05"]) == 0
    told = capsys.readouterr().out
    assert "held-out loss" in told and "--adapter" in told
    adapter, merged = str(tmp_path / "run" / "adapter"), str(tmp_path / "merged")
    assert cli.main(["merge", base, adapter, merged, "--precision", "float32"]) == 0
    assert cli.main(["generate", "how many", "--model", base, "--adapter", adapter, "--max-tokens", "4"]) == 0
    plain, tuned, whole = (castor.load(base), castor.load(base, adapter=adapter), castor.load(merged))
    logits = [each.logits("how many red") for each in (plain, tuned, whole)]
    assert torch.equal(logits[1], logits[2]) and (logits[0] - logits[1]).abs().max() > 0.01
    assert cli.main(["merge", base, str(tmp_path), merged]) == 2


# New senses


@pytest.fixture
def blind_painter(tiny_config: Any, renderer: Renderer) -> Model:
    """A tiny model without a codec, whose table ends behind the special tokens."""
    space = IdSpace(num_text=renderer.space.num_text, num_codes=0)
    text = dataclasses.replace(tiny_config.text, vocab_size=space.vocab_size)
    decoder = Decoder(dataclasses.replace(tiny_config, text=text)).init_weights(0)
    return Model(decoder, Renderer(renderer.tokenizer, space, renderer.config), None)


def test_old_ids_keep_their_logits_exactly(blind_painter: Model, codec: ImageCodec) -> None:
    prompt = [Message.user(picture(3), "how many red"), Message.model("blue circle")]
    before = blind_painter.logits(prompt)
    with pytest.raises(ValueError, match="no image codec"):
        blind_painter.logits([*prompt, Message.user("draw"), Message.model(picture(2))])
    sighted, is_new_V = add_drawing(blind_painter, codec, seed=1)
    end = blind_painter.renderer.space.end
    after = sighted.logits(prompt)
    assert after.shape[-1] == sighted.renderer.space.vocab_size > end
    assert torch.equal(after[:, :end], before[:, :end])
    table_VD = sighted.decoder.output_weight_VD
    assert torch.equal(table_VD[:end], blind_painter.decoder.output_weight_VD[:end])
    old_VD, new_VD = table_VD[:end], table_VD[end:]
    assert (new_VD.mean(0) - old_VD.mean(0)).abs().max() < 0.01 and len(new_VD.unique(dim=0)) == len(new_VD)
    assert int(is_new_V.sum()) == codec.config.num_codes + 2 + 32  # brackets and grid sizes
    assert torch.equal(add_drawing(blind_painter, codec, seed=1)[0].decoder.output_weight_VD, table_VD)
    with pytest.raises(ValueError, match="can draw"):
        add_drawing(sighted, codec)
    with pytest.raises(ValueError, match="cannot hold"):
        extended_decoder(sighted.decoder, end, end + 1)


@pytest.mark.parametrize("is_adapted", [False, True])
def test_new_rows_are_trained_alone(blind_painter: Model, codec: ImageCodec, is_adapted: bool) -> None:
    model, is_new_V = add_drawing(blind_painter, codec)
    decoder = model.decoder.requires_grad_(False)
    if is_adapted:
        add_adapters(decoder, LoraConfig(rank=2))
    train_rows(decoder, is_new_V)
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    sequence = model.renderer.encode([Message.user("draw"), Message.model("red", picture(2))])
    loss = next_token(decoder, model.renderer.space.first_code)
    optimizer = torch.optim.AdamW([p for p in decoder.parameters() if p.requires_grad], lr=0.1, weight_decay=0.0)
    for _ in range(3):
        loss(collate([[sequence]], len(sequence)))[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    table = "language_model.embed_tokens.weight"
    moved_V = (decoder.state_dict()[table] != before[table]).any(-1)
    assert torch.equal(moved_V, drawing_ids(model.renderer.space)[: len(moved_V)])
    changed = {name for name, value in decoder.state_dict().items() if not torch.equal(value, before[name])}
    assert (
        changed - {table} == {name for name in before if "lora" in name} and bool(list(adapters(decoder))) == is_adapted
    )


@pytest.mark.parametrize("method", ["rows", "lora", "full"])
def test_a_model_that_could_not_draw_learns_to(
    blind_painter: Model, codec: ImageCodec, tmp_path: Path, method: Any
) -> None:
    """From a checkpoint without pictures out to one whose reply holds the picture it was taught."""
    blind_painter.save(tmp_path / "base", precision="float32")
    codec.save(tmp_path / "codec", dtype=torch.float32)
    taught = turns(Message.user("draw"), Message.model(picture(4)))
    path = write(tmp_path / "drawings.jsonl", *[taught] * 4)
    config = FinetuneConfig(
        model=str(tmp_path / "base"),
        examples=(path,),
        out=str(tmp_path / "run"),
        method=method,
        senses="draw",
        codec=str(tmp_path / "codec"),
        steps=60,
        held_out=0.0,
        learning_rate=0.02 if method == "full" else 0.1,
        rank=4,
        device="cpu",
    )
    assert run_finetune(config, say=lambda _: None) is not None
    drawn = castor.load(tmp_path / "run" / "model", device="cpu").generate("draw", image_temperature=0.0).images
    assert len(drawn) == 1
    wanted = codec.decode(codec.encode(picture(4).pixels()))
    assert np.abs(drawn[0].pixels().astype(int) - wanted.astype(int)).max() <= 2  # the codec is saved in bfloat16
