"""The mixture, the loader (purity, order, errors, shutdown), and, where CASTOR_DATA is set, the real sets."""

import io
import json
import multiprocessing
import os
import pickle
import random
import tarfile
from dataclasses import dataclass

import numpy as np
import pytest

from castor.content import Image, Message
from castor.data.loader import BrokenExample, Loader, LoaderConfig
from castor.data.mixture import Mixture
from castor.data.real import RealData
from castor.example import Example

DATA = os.environ.get("CASTOR_DATA")
SMALL = {"num_rows": 2, "row_tokens": 64, "num_batches": 7, "start_method": "fork"}
needs_data = pytest.mark.skipif(not DATA, reason="set CASTOR_DATA to the folder of the real sets")


@dataclass
class Numbers:
    """A source of sums; every `broken_every`-th number is refused."""

    task: str
    broken_every: int = 0

    def example(self, rng: random.Random) -> Example:
        number = rng.randrange(1000)
        if self.broken_every and number % self.broken_every == 0:
            raise ValueError(f"number {number} is broken")
        messages = (Message.user(f"Say {number}."), Message.model(str(number) * rng.randint(1, 5)))
        return Example(messages=messages, task=self.task, meta={"id": f"{self.task}-{number}"})


def render(example: Example) -> list[int]:
    return list((example.messages[0].text + example.answer.text).encode())


def render_strictly(example: Example) -> list[int]:
    if len(example.answer.text) > 12:
        raise ValueError("answer too long to say")
    return render(example)


@dataclass
class Rows:
    ids_BT: np.ndarray

    @property
    def num_tokens(self) -> int:
        return int((self.ids_BT > 0).sum())


def pack(sequences, *, num_rows, row_tokens):
    ids_BT, used, left_out = np.zeros((num_rows, row_tokens), np.int64), [0] * num_rows, []
    for number, sequence in enumerate(sequences):
        row = next((r for r in range(num_rows) if used[r] + len(sequence) <= row_tokens), None)
        if row is None:
            left_out.append(number)
            continue
        ids_BT[row, used[row] : used[row] + len(sequence)] = sequence
        used[row] += len(sequence)
    return Rows(ids_BT), left_out


def mixture(**broken: int) -> Mixture:
    sources = {name: Numbers(name, broken.get(name, 0)) for name in ("a", "b")}
    return Mixture(sources, {"a": 1.0, "b": [(0.0, 0.0), (1.0, 3.0)]})


def loader(num_workers: int = 0, rendering=render, **broken: int) -> Loader:
    config = LoaderConfig(**SMALL, num_workers=num_workers)
    return Loader(config, mixture(**broken), rendering, pack)


def test_shares_follow_the_lines_and_sum_to_one():
    mixed = mixture()
    assert mixed.shares(0.0) == {"a": 1.0, "b": 0.0}
    assert mixed.shares(1.0) == {"a": 0.25, "b": 0.75}
    assert mixed.shares(0.5) == pytest.approx({"a": 1 / 2.5, "b": 1.5 / 2.5})
    rng = random.Random(0)
    picked = [mixed.pick(rng, 1.0) for _ in range(4000)]
    assert picked.count("b") / 4000 == pytest.approx(0.75, abs=0.03)
    assert {mixed.pick(rng, 0.0) for _ in range(200)} == {"a"}


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ({"a": 1, "bb": 1}, "did you mean 'b'"),
        ({"a": 1}, "'b' has no weight"),
        ({"a": -1, "b": 1}, "not negative, got -1"),
        ({"a": float("nan"), "b": 1}, "finite"),
        ({"a": [(0.0, 1), (2.0, 1)], "b": 1}, "0..1, got 2.0"),
        ({"a": [(0.5, 1), (0.5, 2)], "b": 1}, "must increase"),
        ({"a": [], "b": 1}, "no points"),
        ({"a": [(0.0, 1), (1.0, 0)], "b": 0}, "zero at progress 1.0"),
    ],
)
def test_wrong_weights_are_named(weights, problem):
    with pytest.raises(ValueError, match=problem):
        Mixture({"a": Numbers("a"), "b": Numbers("b")}, weights)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batch_k_is_the_same_from_a_loader_started_at_k(num_workers):
    expected = [loaded.batch.ids_BT for loaded in loader().batches()]
    assert len(expected) == 7 and not np.array_equal(expected[0], expected[1])
    found = list(loader(num_workers).batches(start=3))
    assert [loaded.index for loaded in found] == [3, 4, 5, 6]
    for loaded in found:
        assert np.array_equal(loaded.batch.ids_BT, expected[loaded.index])
        assert loaded.stats.useful_share == loaded.batch.num_tokens / (2 * 64)
        assert sum(loaded.stats.examples.values()) > 0 and loaded.stats.wait_s >= 0
    assert not multiprocessing.active_children()


def test_early_close_ends_the_workers():
    batches = loader(2).batches()
    assert next(batches).index == 0
    batches.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_example_is_skipped_and_told(num_workers):
    found = list(loader(num_workers, a=3).batches())
    told = [text for loaded in found for text in loaded.stats.broken]
    assert told and all("source 'a', seed '0/" in text and "is broken" in text for text in told)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_example_stops_where_wanted_and_can_be_made_again(num_workers):
    strict = loader(num_workers, render_strictly)
    strict.config = LoaderConfig(**SMALL, num_workers=num_workers, on_broken="stop")
    said = r"task 'a', id 'a-\d+', seed '0/\d+/\d+': answer too long"
    with pytest.raises(BrokenExample, match=said) as caught:
        list(strict.batches())
    _, index, number = str(caught.value).split("seed '")[1].split("'")[0].split("/")
    assert len(strict.example(int(index), int(number)).answer.text) > 12
    assert not multiprocessing.active_children()


def render_and_die(example: Example) -> list[int]:
    os._exit(7)


def test_a_worker_that_dies_is_reported_with_its_batch():
    with pytest.raises(RuntimeError, match="exit code 7 before batch 0"):
        list(loader(1, render_and_die).batches())
    assert not multiprocessing.active_children()


def test_a_source_that_never_works_ends_the_run():
    with pytest.raises(BrokenExample, match="is broken"):
        list(loader(a=1, b=1).batches())


def test_examples_longer_than_a_row_are_counted_or_end_the_run():
    long = loader()
    long.config = LoaderConfig(num_rows=1, row_tokens=18, num_batches=5)
    assert sum(loaded.stats.num_too_long for loaded in long.batches()) > 0
    long.config = LoaderConfig(num_rows=1, row_tokens=4, num_batches=5)
    with pytest.raises(BrokenExample, match="did not fit a row of 4"):
        list(long.batches())


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="on_broken.*'ignore'"):
        LoaderConfig(on_broken="ignore")
    with pytest.raises(ValueError, match="num_rows.*0"):
        LoaderConfig(num_rows=0)
    with pytest.raises(ValueError, match=r"0\.\.7 and stride positive, got 8"):
        list(loader().batches(start=8))


def small_set(folder, rows: list[dict], payload: bytes) -> None:
    """A clothing set of one shard whose every picture is `payload`."""
    folder.mkdir(parents=True)
    (folder / "manifest.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    with tarfile.open(folder / "media-000.tar", "w") as shard:
        for row in rows[:-1]:
            member = tarfile.TarInfo(row["path"])
            member.size = len(payload)
            shard.addfile(member, io.BytesIO(payload))


def clothes(num: int) -> list[dict]:
    return [
        {"id": f"cloth_{i}", "tar": "media-000.tar", "path": f"{i}.png", "label": "hat", "text": "a hat",
         "split": "validation" if i % 4 == 0 else "train"}
        for i in range(num)
    ]  # fmt: skip


def test_a_set_gives_examples_and_names_the_item_that_is_broken(tmp_path):
    pixels = np.full((8, 8, 3), 200, np.uint8)
    small_set(tmp_path / "photos/clothing", clothes(7), Image.from_pixels(pixels).data)
    found = RealData(tmp_path)
    assert [source.name for source in found] == ["photos/clothing"]
    source = pickle.loads(pickle.dumps(found["photos/clothing"]))
    assert (source.count("train"), source.count("test")) == (5, 2)
    example = source.examples("test", 1)[0]
    assert example.answer.text == "a hat" and example.meta["licence"] == "A" and "has_image" in example.tags
    assert np.array_equal(example.messages[0].images[0].pixels(), pixels)
    with pytest.raises(ValueError, match=r"cloth_6: .*media-000.tar holds no '6.png'"):
        source.examples("train")
    with pytest.raises(ValueError, match="split must be"):
        source.examples("validation")


def test_a_truncated_shard_and_a_bad_line_are_named(tmp_path):
    folder = tmp_path / "photos/clothing"
    small_set(folder, clothes(3), Image.from_pixels(np.zeros((64, 64, 3), np.uint8)).data)
    with (folder / "media-000.tar").open("r+b") as shard:
        shard.truncate(600)
    with pytest.raises(ValueError, match=r"cloth_\d: .*media-000.tar"):
        RealData(tmp_path)["photos/clothing"].examples("train")
    (folder / "manifest.jsonl").write_text('{"id": 1}\nno json\n')
    with pytest.raises(ValueError, match=r"manifest.jsonl, line 2"):
        RealData(tmp_path)["photos/clothing"].examples("train")


def test_absent_data_is_empty_and_says_so(tmp_path):
    assert list(RealData(None)) == [] and "CASTOR_DATA" in RealData(None).message
    assert "is no folder" in RealData(tmp_path / "absent").message
    assert "none of the known sets" in RealData(tmp_path).message
    with pytest.raises(ValueError, match="did you mean 'digits/mnist'"):
        RealData(tmp_path)["digits/mnits"]
    with pytest.raises(ValueError, match="'D'"):
        RealData(tmp_path, licences=("D",))


@needs_data
def test_real_splits_are_disjoint_and_every_set_opens():
    found = RealData(DATA, licences=("A", "B", "C"))
    assert len(list(found)) > 30
    for source in found:
        ids = {split: {row["id"] for row in source.rows[split]} for split in ("train", "test")}
        assert ids["train"] and ids["test"] and not ids["train"] & ids["test"], source.name
        assert sum(map(len, ids.values())) == source.count("train") + source.count("test"), source.name
        for split in ("train", "test"):
            example = source.example(random.Random(0), split)
            assert example.answer.text and example.meta["licence"] in "ABC"
            first, again = (source.examples(split, 1)[0] for _ in range(2))
            assert first.answer == again.answer and first.meta == again.meta, source.name


@needs_data
def test_real_speakers_sentences_and_licences_are_kept_apart():
    found = RealData(DATA)
    assert "photos/cifar10" not in {source.name for source in found}
    for name in ("digits/spoken_en", "digits/spoken_ar", "audio/commands_ar", "digits/sequences"):
        speakers = [{row["speaker"] for row in found[name].rows[split]} for split in ("train", "test")]
        assert not speakers[0] & speakers[1], name
    keys = [{row["key"] for row in found["text/tatoeba"].rows[split]} for split in ("train", "test")]
    assert not keys[0] & keys[1]
    assert {row["style"] for row in found["concepts"].rows["train"]} == {"noto", "twemoji"}
    photos = found["photos/coco_mini"].rows
    assert not any(row["noncommercial"] for rows in photos.values() for row in rows)


@needs_data
def test_things_are_named_among_choices_that_hold_the_answer():
    found = RealData(DATA)
    for name, count in (("concepts", 200), ("audio/sounds", 50), ("audio/mandarin_words", 50)):
        examples = found[name].examples("test", 60)
        assert len(examples) == 60
        for example in examples:
            choices = example.meta["choices"]
            assert example.answer.text in choices and len(choices) == len(set(choices)) == count, name


def test_augmented_media_are_others_of_the_same_kind():
    from castor.content import Audio, Image, Message
    from castor.data.real.augment import augmented, moved, resounded
    from castor.example import Example

    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[24:40, 24:40] = (200, 30, 30)
    tone = np.sin(np.arange(16000) * 2 * np.pi * 440 / 16000).astype(np.float32) * 0.5
    parts = (Image.from_pixels(pixels), Audio.from_samples(tone), "What is this?")
    example = Example(messages=(Message.user(*parts), Message.model("a square")), task="own")
    one, again, other = (augmented(example, random.Random(seed)) for seed in (1, 1, 2))
    assert one == again != other and one.answer == example.answer
    for seed in range(20):
        seen = moved(pixels, random.Random(seed)).astype(int)
        is_thing = np.abs(seen - seen[0, 0]).sum(2) > 60
        y, x = np.argwhere(is_thing).mean(0)
        assert seen.shape == pixels.shape and 70 < is_thing.sum() < 700 and max(abs(x - 32), abs(y - 32)) < 16
        heard = resounded(tone, random.Random(seed))
        peak_hz = np.abs(np.fft.rfft(heard)).argmax() * 16000 / len(heard)
        assert 440 * 0.84 < peak_hz < 440 * 1.18 and 0.05 < np.abs(heard).max() <= 0.52


def test_own_examples_come_back_and_wrong_lines_are_numbered(tmp_path):
    import json

    from castor.content import Image, Message
    from castor.data.lines import Lines
    from castor.example import Example

    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    wanted = [
        Example(messages=(Message.user(Image.from_pixels(pixels), str(i)), Message.model("yes")), task="own")
        for i in range(3)
    ]
    path = tmp_path / "own.jsonl"
    lines = [json.dumps(example.to_json()) for example in wanted]
    path.write_text(lines[0] + "\n\n" + lines[1] + "\n" + lines[2], encoding="utf-8")
    assert [Lines(path)[i] for i in range(3)] == wanted
    assert Lines(path).example(random.Random(0)) in wanted
    path.write_text(lines[0] + "\n{oops\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"own\.jsonl, line 2: not valid JSON"):
        len(Lines(path))
    bad = json.loads(lines[0]) | {"contents": [{"role": "user", "parts": [{"texte": "x"}]}]}
    path.write_text("\n" + json.dumps(bad), encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 2: .*texte"):
        Lines(path)[0]
    with pytest.raises(ValueError, match="no such file of examples"):
        Lines(tmp_path / "absent.jsonl")


def test_workers_are_started_deaf_to_ctrl_c() -> None:
    import signal

    from castor.data.loader import without_interrupts

    before = signal.getsignal(signal.SIGINT)
    with without_interrupts():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_share_of_the_batches_is_the_same_batches(num_workers: int) -> None:
    whole = list(loader().batches())
    for start, stride in ((5, 1), (1, 2), (3, 3)):
        part = list(loader(num_workers).batches(start, stride))
        assert [loaded.index for loaded in part] == list(range(start, 7, stride))
        assert all(np.array_equal(p.batch.ids_BT, whole[p.index].batch.ids_BT) for p in part)
