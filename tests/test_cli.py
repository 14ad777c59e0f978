"""The command line: instant help, one line for a mistake, parts in order, pictures kept safe."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import castor
from castor import cli
from castor.content import Audio, Image, Message, Part, Text
from castor.demo.chat import Conversation
from castor.demo.say import save_picture

PIXELS = np.full((8, 8, 3), (200, 30, 30), np.uint8)


class Parrot:
    """Says what it was given, part by part, and draws a red square when asked to draw."""

    def __init__(self) -> None:
        self.prompts: list[list[Message]] = []
        self.sampling: dict[str, Any] = {}

    def stream(self, messages: list[Message], **sampling: Any) -> Iterator[Part]:
        self.prompts.append(messages)
        self.sampling = sampling
        if "Draw" in messages[-1].text:
            yield Text("Here: ")
            yield Image.from_pixels(PIXELS)
            return
        for part in messages[-1].parts:
            yield Text(part.text if isinstance(part, Text) else f"<{type(part).__name__}>")


@pytest.fixture
def parrot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Parrot:
    model = Parrot()
    monkeypatch.setattr(castor, "load", lambda name, **options: model, raising=False)
    monkeypatch.chdir(tmp_path)
    return model


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "a picture.png"
    path.write_bytes(Image.from_pixels(PIXELS).data)
    return str(path)


def test_help_is_instant_and_loads_nothing_heavy() -> None:
    program = (
        "import sys; from castor import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'av', 'rich', 'castor.content'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    start_s = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start_s
    assert done.returncode == 0, done.stderr
    for verb in ("demo", "generate", "chat", "train", "speedrun", "merge", "eval", "data"):
        assert verb in done.stdout
    assert seconds < 2.0  # 0.05 s on an idle machine


@pytest.mark.parametrize(
    "argv",
    [["generate"], ["demo"], ["chat"], ["train"], ["speedrun"], ["merge"], ["eval"], ["data"], ["data", "make"]],
    ids=" ".join,
)
def test_every_verb_has_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([*argv, "--help"])
    assert stopped.value.code == 0
    assert "castor " + " ".join(argv) in capsys.readouterr().out


def test_no_verb_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "verbs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "kept"),
    [
        (["generate", "a", "--image", "b", "c"], ["generate", "--text=a", "--image", "b", "--text=c"]),
        (["generate", "--out=x.png", "-3"], ["generate", "--out=x.png", "--text=-3"]),
        (["generate", "--", "--seed"], ["generate", "--text=--seed"]),
        (["generate", "-h"], ["generate", "-h"]),
        (["demo", "a.png"], ["demo", "a.png"]),
    ],
)
def test_bare_words_become_text_in_place(argv: list[str], kept: list[str]) -> None:
    assert cli.in_order(argv) == kept


def test_parts_keep_their_order(parrot: Parrot, picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["generate", "first", "--image", picture, "then", "--max-tokens", "5", "--image", picture, "last"]
    assert cli.main(argv) == 0
    assert capsys.readouterr().out == "first<Image>then<Image>last\n"
    assert parrot.sampling == {"max_tokens": 5, "temperature": 0.0, "seed": 0}


def test_a_drawn_picture_is_saved_under_a_free_name(parrot: Parrot, tmp_path: Path) -> None:
    assert cli.main(["generate", "Draw a square."]) == 0
    assert cli.main(["generate", "Draw a square."]) == 0
    assert (Image(tmp_path / "drawing.png").pixels() == PIXELS).all()
    assert (tmp_path / "drawing-2.png").is_file()
    assert cli.main(["generate", "Draw a square.", "--out", "own/square.png"]) == 0
    assert cli.main(["generate", "Draw a square.", "--out", "own/square.png"]) == 0
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["square.png"]


def test_several_pictures_get_numbers(tmp_path: Path) -> None:
    image = Image.from_pixels(PIXELS)
    names = [save_picture(image, str(tmp_path / "x.png"), number).name for number in (1, 2, 3)]
    assert names == ["x.png", "x-2.png", "x-3.png"]


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["generate"], "nothing to answer"),
        (["generate", "--image", "missing.png", "what?"], "missing.png: no such file"),
        (["generate", "Draw", "--out", "x.jpg"], "must end in .png"),
        (["demo", "notes.xyz"], "cannot tell"),
        (["demo", "--question", "What is this?"], "needs a file"),
        (["eval", "--data", "nowhere"], "nowhere: no such folder"),
        (["generate", "\udcff"], "not Unicode text"),
        (["data", "count", "missing.jsonl"], "missing.jsonl"),
        (["data", "make", "out.jsonl", "--languages", "xx"], "xx"),
        (["train", "steps=2"], "recipe's name comes first"),
    ],
)
def test_a_mistake_is_one_line(
    argv: list[str], problem: str, parrot: Parrot, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    told = capsys.readouterr().err
    assert told.startswith("castor: ") and told.count("\n") == 1 and problem in told
    assert "Traceback" not in told


def test_interruption_ends_cleanly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(name: str, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(castor, "load", interrupt, raising=False)
    assert cli.main(["generate", "hello"]) == 130
    assert capsys.readouterr().err.strip() == "castor: interrupted"


def test_chat_keeps_the_conversation(parrot: Parrot, picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    conversation = Conversation(parrot, max_tokens=9)
    assert conversation.take(f"/image {picture}")
    assert conversation.take("what is this?")
    assert conversation.take("and now?")
    assert [message.role for message in parrot.prompts[-1]] == ["user", "model", "user"]
    assert parrot.prompts[-1][1] == Message.model("<Image>what is this?")
    assert parrot.sampling == {"max_tokens": 9}
    assert conversation.take("/draw a square.")
    assert "drawing.png" in capsys.readouterr().out
    assert conversation.take("/help") and conversation.take("/reset") and conversation.take("")
    assert conversation.messages == []
    for wrong in ("/dance", "/image nowhere.png", "/image"):
        with pytest.raises(ValueError):
            conversation.take(wrong)
    assert not conversation.take("/quit")


def test_every_kind_of_file_becomes_its_part(tmp_path: Path) -> None:
    from castor.demo.say import part_of

    sound = tmp_path / "a.wav"
    sound.write_bytes(Audio.from_samples(np.zeros(1600, np.float32)).data)
    assert isinstance(part_of("audio", str(sound)), Audio)
    assert part_of("text", "words") == Text("words")
    with pytest.raises(ValueError):
        part_of("document", str(sound))


def test_data_is_made_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "data.jsonl"
    assert cli.main(["data", "make", str(out), "--tasks", "image_count,arithmetic", "--count", "3"]) == 0
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 6 and {line["task"] for line in lines} == {"image_count", "arithmetic"}
    assert cli.main(["data", "count", str(out)]) == 0
    assert "image_count" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    ['{"contents": [{"parts": ["x"]}], "task": "t"}', '{"contents": 3, "task": "t"}', "[" * 100_000, "\x89PNG"],
)
def test_a_line_that_is_no_example_is_named(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.jsonl").write_text(line, encoding="latin-1")
    assert cli.main(["data", "count", str(tmp_path / "x.jsonl")]) == 2
    assert "x.jsonl, line 1: not an example" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_does_not_stay_in_the_chat(parrot: Parrot, picture: str) -> None:
    conversation = Conversation(parrot)
    conversation.take(f"/image {picture}")
    listens, parrot.stream = parrot.stream, lambda *_, **__: (_ for _ in ()).throw(ValueError("not a picture"))
    with pytest.raises(ValueError, match="not a picture"):
        conversation.take("what is this?")
    parrot.stream = listens
    assert conversation.take("hello") and parrot.prompts[-1] == [Message.user("hello")]


@pytest.mark.parametrize("argv", [["eval", "--limit", "0"], ["data", "look", "--count", "-1"]], ids=" ".join)
def test_a_count_is_one_or_more(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(argv)
    assert stopped.value.code == 2 and "is less than 1" in capsys.readouterr().err
