"""The loop: resumed = uninterrupted to the bit, accumulation = one big batch, bad steps are said, losses fall."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from castor.checkpoint import load_tensors, save_tensors, write_atomically
from castor.content import Message
from castor.data.loader import BatchStats, BrokenExample, LoadedBatch
from castor.log import MetricsFile, read_metrics
from castor.models.config import ModelConfig
from castor.models.decoder import Decoder
from castor.recipes.pipeline import Run, RunConfig
from castor.runtime import threads
from castor.tokens.batch import Batch
from castor.tokens.pack import pack
from castor.tokens.render import Renderer
from castor.train.fit import STATE_FILE, FitConfig, fit
from castor.train.objective import next_token
from castor.train.optim import OptimConfig, Optimizer
from castor.train.schedule import learning_rate_scale
from castor.train.workers import Workers


def make_batch(renderer: Renderer, index: int, num_rows: int = 2) -> Batch:
    """Sums to learn, a pure function of its number."""
    rng = random.Random(index)
    pairs = [(rng.randrange(10), rng.randrange(10)) for _ in range(4 * num_rows)]
    sequences = [renderer.encode([Message.user(f"{a} red {b}"), Message.model(str(a + b))]) for a, b in pairs]
    return pack(sequences, num_rows=num_rows, row_tokens=80)[0]


def stream_of(renderer: Renderer):
    def batches(start: int) -> Iterator[LoadedBatch]:
        index = start
        while True:
            yield LoadedBatch(index, make_batch(renderer, index), BatchStats(examples={"sum": 8}))
            index += 1

    return batches


def fresh(config: ModelConfig) -> Decoder:
    return Decoder(config).init_weights(0)


CONFIG = FitConfig(num_steps=12, precision="float32", save_every_s=1e9)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_resumed_equals_uninterrupted(
    tmp_path: Path, renderer: Renderer, tiny_config: ModelConfig, optimizer: str
) -> None:
    config = dataclasses.replace(CONFIG, optim=OptimConfig(name=optimizer))
    whole, parted = fresh(tiny_config), fresh(tiny_config)
    space = renderer.space
    fit(whole, next_token(whole, space.first_code), stream_of(renderer), config, tmp_path / "whole")
    for stop in (5, 9, None):
        parted = fresh(tiny_config)
        loss = next_token(parted, space.first_code)
        fit(parted, loss, stream_of(renderer), config, tmp_path / "parted", stop_after=stop)
    for (name, a), b in zip(whole.state_dict().items(), parted.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    rows = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("whole", "parted")]
    assert [r["step"] for r in rows[1]] == list(range(1, 13))
    assert [r["loss"] for r in rows[0]] == [r["loss"] for r in rows[1]]


KILLED = """
import sys
sys.path.insert(0, {tests!r})
import pickle, torch, time
torch.set_num_threads(1)
from test_train import stream_of, fresh, CONFIG, fit, next_token
import dataclasses
renderer, tiny_config = pickle.load(open({fixture!r}, "rb"))
model = fresh(tiny_config)
def slow(start):
    for loaded in stream_of(renderer)(start):
        time.sleep(0.05)
        yield loaded
config = dataclasses.replace(CONFIG, num_steps=40, save_every_s=0.0)
fit(model, next_token(model, renderer.space.first_code), slow, config, {folder!r})
"""


def test_killed_at_any_moment_and_resumed(tmp_path: Path, renderer: Renderer, tiny_config: ModelConfig) -> None:
    import pickle

    bare = Renderer(renderer.tokenizer, renderer.space, renderer.config)
    fixture = tmp_path / "fixture.pkl"
    fixture.write_bytes(pickle.dumps((bare, tiny_config)))
    tests, folder = str(Path(__file__).parent), tmp_path / "killed"
    script = KILLED.format(tests=tests, fixture=str(fixture), folder=str(folder))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    rng, kills = random.Random(time.time_ns()), 0
    while not _finished(folder):
        process = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.DEVNULL)
        try:
            if kills < 3:
                deadline_s = time.monotonic() + 60
                steps = len(read_metrics(folder / "metrics.jsonl"))
                while time.monotonic() < deadline_s and process.poll() is None:
                    if len(read_metrics(folder / "metrics.jsonl")) > steps + 2:
                        break
                    time.sleep(0.02)
                time.sleep(rng.random() * 0.4)
                process.send_signal(signal.SIGKILL)
                kills += 1
            assert process.wait(timeout=120) in (0, -signal.SIGKILL)
        finally:
            process.kill()
    whole = fresh(tiny_config)
    config = dataclasses.replace(CONFIG, num_steps=40)
    fit(whole, next_token(whole, renderer.space.first_code), stream_of(renderer), config, tmp_path / "whole")
    state = load_tensors(folder / STATE_FILE)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, state[f"model|{name}"]), name


def _finished(folder: Path) -> bool:
    rows = read_metrics(folder / "metrics.jsonl")
    return bool(rows) and rows[-1]["step"] == 40 and (folder / STATE_FILE).exists()


def test_accumulation_equals_one_big_batch(renderer: Renderer, tiny_config: ModelConfig, tmp_path: Path) -> None:
    def halves(start: int) -> Iterator[LoadedBatch]:
        big = make_batch(renderer, 0, num_rows=2)
        for row in (0, 1):
            at = slice(row, row + 1)
            names = ("ids_BT", "position_BT", "doc_BT", "block_BT", "target_BT")
            cut = {name: getattr(big, name)[at] for name in names}
            yield LoadedBatch(row, dataclasses.replace(big, **cut), BatchStats())

    def whole(start: int) -> Iterator[LoadedBatch]:
        yield LoadedBatch(0, make_batch(renderer, 0, num_rows=2), BatchStats())

    results = []
    for name, batches, accumulate in (("whole", whole, 1), ("halves", halves, 2)):
        model = fresh(tiny_config)
        config = FitConfig(
            num_steps=1,
            accumulate=accumulate,
            precision="float32",
            optim=OptimConfig(name="adamw"),
            warmup=1.0,
        )
        result = fit(model, next_token(model, renderer.space.first_code), batches, config, tmp_path / name)
        results.append((result.loss, read_metrics(tmp_path / name / "metrics.jsonl")[0]["norm"]))
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_four_examples_are_learned_by_heart(renderer: Renderer, tiny_config: ModelConfig, tmp_path: Path) -> None:
    model = fresh(tiny_config)
    batch = make_batch(renderer, 3, num_rows=1)

    def same(start: int) -> Iterator[LoadedBatch]:
        while True:
            yield LoadedBatch(0, batch, BatchStats())

    config = FitConfig(num_steps=80, precision="float32", optim=OptimConfig(learning_rate=1e-2))
    fit(model, next_token(model, renderer.space.first_code), same, config, tmp_path)
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["loss"] < 0.05


@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_a_loss_that_is_not_finite_is_named(
    renderer: Renderer,
    tiny_config: ModelConfig,
    tmp_path: Path,
    policy: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = fresh(tiny_config)
    plain = next_token(model, renderer.space.first_code)
    calls = []

    def bad_at_two(batch: Batch):
        calls.append(batch)
        total, count, metrics = plain(batch)
        return (total * float("nan") if len(calls) == 3 else total), count, metrics

    config = FitConfig(num_steps=5, precision="float32", on_bad_step=policy)
    if policy == "stop":
        with pytest.raises(ValueError, match=r"step 3: .* not finite; batch of batch 2 \({'sum': 8}\)"):
            fit(model, bad_at_two, stream_of(renderer), config, tmp_path)
    else:
        result = fit(model, bad_at_two, stream_of(renderer), config, tmp_path)
        assert result.num_skipped == 1 and "step 3" in capsys.readouterr().err
        assert all(torch.isfinite(p).all() for p in model.parameters())


def test_another_schedule_is_refused(renderer: Renderer, tiny_config: ModelConfig, tmp_path: Path) -> None:
    model = fresh(tiny_config)
    loss = next_token(model, renderer.space.first_code)
    fit(model, loss, stream_of(renderer), CONFIG, tmp_path, stop_after=2)
    with pytest.raises(ValueError, match="saved by a run of 12 steps, not 13"):
        fit(model, loss, stream_of(renderer), dataclasses.replace(CONFIG, num_steps=13), tmp_path)


def test_codes_and_text_weigh_as_set(renderer: Renderer, tiny_config: ModelConfig) -> None:
    """The weighted loss is the slow formula over all tokens."""
    model = fresh(tiny_config)
    batch = make_batch(renderer, 1)
    target = batch.target_BT.clone()
    target[0, 3:9] = renderer.space.first_code + torch.arange(6)
    batch = dataclasses.replace(batch, target_BT=target)
    total, count, _ = next_token(model, renderer.space.first_code, 0.25)(batch)
    logits_BTV = model(batch)
    weight = torch.where(target >= renderer.space.first_code, 0.25, 1.0) * (target >= 0)
    log_p = logits_BTV.log_softmax(-1).gather(-1, target.clamp(min=0)[..., None]).squeeze(-1)
    assert float(total.detach()) == pytest.approx(float(-(log_p * weight).sum().detach()), rel=1e-5)
    assert float(count) == pytest.approx(float(weight.sum()))


def test_schedule_warms_holds_and_falls() -> None:
    scales = [learning_rate_scale(step, 100, warmup=0.1, decay=0.3) for step in range(100)]
    assert scales[0] == pytest.approx(0.1) and scales[9] == 1.0 and scales[69] == 1.0
    assert all(a >= b for a, b in zip(scales[70:], scales[71:], strict=False)) and 0.02 <= scales[-1] < 0.03


def test_stages_share_one_schedule() -> None:
    first = FitConfig(num_steps=70, warmup=0.1, decay=0.5, stretch=(0.0, 0.7))
    second = FitConfig(num_steps=30, warmup=0.1, decay=0.5, stretch=(0.7, 1.0))
    joined = [first.rate_scale(step) for step in range(70)] + [second.rate_scale(step) for step in range(30)]
    assert joined == [learning_rate_scale(step, 100, warmup=0.1, decay=0.5) for step in range(100)]
    with pytest.raises(ValueError, match="stretch"):
        FitConfig(num_steps=1, stretch=(0.5, 0.5))


def test_optimizer_state_round_trips(tiny_config: ModelConfig, tmp_path: Path) -> None:
    def grads(model: Decoder, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)

    a, b = fresh(tiny_config), fresh(tiny_config)
    one, two = Optimizer(a, OptimConfig()), Optimizer(b, OptimConfig())
    for seed in range(3):
        grads(a, seed)
        one.step(1.0)
    save_tensors(tmp_path / "s.safetensors", one.state())
    b.load_state_dict(a.state_dict())
    two.load_state(load_tensors(tmp_path / "s.safetensors"))
    for model, optimizer in ((a, one), (b, two)):
        grads(model, 9)
        optimizer.step(0.5)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_metrics_file_drops_what_a_kill_left(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st', encoding="utf-8")
    file = MetricsFile(path, resume_step=2)
    file.write({"step": 3, "again": True})
    file.close()
    assert read_metrics(path) == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]


def test_a_torn_checkpoint_is_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a.safetensors", {"x": torch.arange(1000)})
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "b.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"b\.safetensors: not a complete safetensors file"):
        load_tensors(tmp_path / "b.safetensors")


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "taken", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_run_that_cannot_start_binds_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file of examples"):
        Run(RunConfig(out=str(tmp_path / "run"), examples=("missing.jsonl",)), say=lambda _: None)
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_with_its_settings_and_sources_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CASTOR_DATA", raising=False)
    config = RunConfig(out=str(tmp_path / "run"))
    first = Run(config, say=lambda _: None)
    assert first.plan["sources"] == Run(config, say=lambda _: None).plan["sources"]
    with pytest.raises(ValueError, match="begun with seed=0, not 1"):
        Run(dataclasses.replace(config, seed=1), say=lambda _: None)
    first.note("sources", [*first.plan["sources"], "digits/mnist"])
    with pytest.raises(ValueError, match="'digits/mnist' is gone since this run was begun"):
        Run(config, say=lambda _: None)


@pytest.mark.parametrize("setting", [{"minutes": float("inf")}, {"num_rows": 0}, {"tune_steps": -1}])
def test_a_setting_that_cannot_be_is_refused_at_once(setting: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        RunConfig(**setting)


def test_the_trial_of_a_step_leaves_the_model_as_it_was(renderer: Renderer, tiny_config: ModelConfig) -> None:
    from castor.train.calibrate import seconds_per_step

    model = fresh(tiny_config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = next_token(model, renderer.space.first_code)
    step_s = seconds_per_step(model, loss, stream_of(renderer), CONFIG)
    assert 0 < step_s < 10
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def build_worker(config: ModelConfig, first_code: int):
    with torch.device("meta"):
        model = Decoder(config)
    return model, next_token(model, first_code)


def numbered(renderer: Renderer, fail_at: int, start: int, stride: int = 1) -> Iterator[LoadedBatch]:
    """`stream_of` for other processes too; batch `fail_at` cannot be made."""
    for index in itertools.count(start, stride):
        if index == fail_at:
            raise BrokenExample(f"batch {index} is broken")
        yield LoadedBatch(index, make_batch(renderer, index), BatchStats(examples={"sum": 8}))


def test_workers_give_what_accumulation_gives(tmp_path: Path, renderer: Renderer, tiny_config: ModelConfig) -> None:
    first_code = renderer.space.first_code
    build = functools.partial(build_worker, tiny_config, first_code)
    alone, together = fresh(tiny_config), fresh(tiny_config)
    batches = functools.partial(numbered, renderer, -1)
    config = dataclasses.replace(CONFIG, accumulate=2, num_steps=4)
    with threads(1):
        fit(alone, next_token(alone, first_code), batches, config, tmp_path / "alone")
        config = dataclasses.replace(config, accumulate=1)
        loss = next_token(together, first_code)
        with Workers(together, build, 1) as workers:  # ended after two steps, and gone on with by the same workers
            for stop in (2, None):
                fit(together, loss, batches, config, tmp_path / "together", stop_after=stop, workers=workers)
    for (name, a), b in zip(alone.state_dict().items(), together.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    rows = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("alone", "together")]
    assert [(r["tokens"], r["loss"]) for r in rows[0]] == [(r["tokens"], r["loss"]) for r in rows[1]]


def test_what_goes_wrong_in_a_worker_is_said(tmp_path: Path, renderer: Renderer, tiny_config: ModelConfig) -> None:
    first_code = renderer.space.first_code
    model = fresh(tiny_config)
    loss = next_token(model, first_code)
    with Workers(model, functools.partial(build_worker, tiny_config, first_code), 1) as workers:
        with pytest.raises(BrokenExample, match="batch 3 is broken"):
            fit(model, loss, functools.partial(numbered, renderer, 3), CONFIG, tmp_path / "a", workers=workers)
        with pytest.raises(BrokenExample, match="batch 2 is broken"):  # this process's own: the worker's is unread
            fit(model, loss, functools.partial(numbered, renderer, 2), CONFIG, tmp_path / "c", workers=workers)
        alone = fresh(tiny_config)
        model.load_state_dict(alone.state_dict())
        batches, config = functools.partial(numbered, renderer, -1), dataclasses.replace(CONFIG, num_steps=2)
        with threads(1):
            fit(model, loss, batches, config, tmp_path / "d", workers=workers)
            config = dataclasses.replace(config, accumulate=2)
            fit(alone, next_token(alone, first_code), batches, config, tmp_path / "e")
        assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), model.parameters(), strict=True))
        workers._processes[0].kill()
        with pytest.raises(RuntimeError, match="training process 2 ended with exit code -9"):
            fit(model, loss, functools.partial(numbered, renderer, -1), CONFIG, tmp_path / "b", workers=workers)
