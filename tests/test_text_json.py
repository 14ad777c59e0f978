"""tokenizer.json in Gemma's form: id for id as transformers has it, and no text becomes a special token."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from castor.tokens.text import Tokenizer
from castor.tokens.text_json import JsonTokenizer, load_tokenizer

published = pytest.importorskip("published")
pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

TEXTS = [
    "The quick brown fox.",
    "",
    " ",
    "  two  spaces   three    four ",
    "\n\n\ttabs\r\n  and\u00a0lines\u2028\n",
    "größer où ñandú ¿qué? æøå",
    "红色的圆在蓝色的方块左边。赤い丸はどこですか。빨간 원",
    "वृत्त लाल है। العربية עברית ไทย",
    "🙂🙂👩‍👩‍👧🏳️‍🌈 e\u0301 é \u200b\ufeff",
    "def f(x):\n    return {'a': [x ** 2, -1.5e-3]}  # ok\n",
    "▁ already ▁▁ marked",
    "0123456789 3.14159 1,000,000",
    "<0x41><0x0A> and <unused> <b>html</b>",
    "\x00\x01\x7f",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    published.write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def ours(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> object:
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers(ours: Tokenizer, theirs: object, text: str) -> None:
    assert "Fast" in type(theirs).__name__ or theirs.is_fast
    wanted = theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.encode(text) == wanted
    assert ours.decode(wanted) == theirs.decode(wanted, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert ours.pieces(wanted) == theirs.convert_ids_to_tokens(wanted)


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_comes_back(ours: Tokenizer, theirs: object, text: str) -> None:
    assume(not any(name in text for name in ours.specials))  # hypothesis tries texts that it finds in our sources
    ids = ours.encode(text)
    assert ids == theirs(text, add_special_tokens=False)["input_ids"]
    if "▁" not in text:  # as in transformers, this one letter comes back as a space
        assert ours.decode(ids) == text


@pytest.mark.parametrize("name", [*published.SPECIALS, *published.TURNS])
def test_no_text_becomes_a_special_token(ours: Tokenizer, theirs: object, name: str) -> None:
    ids = ours.encode(f"a {name} b")
    assert not set(ids) & set(ours.specials.values())
    assert ours.decode(ids) == f"a {name} b"
    assert ours.specials[name] == theirs.convert_tokens_to_ids(name)
    assert ours.decode([ours.specials[name]]) == ""


def test_begins_are_characters(ours: JsonTokenizer) -> None:
    text = "größer 红色\nfox 🙂 end"
    ids, begins = ours.encode_at(text)
    assert ids == ours.encode(text) and len(begins) == len(ids)
    assert begins == sorted(begins) and begins[0] == 0 and begins[-1] < len(text)
    for at in range(1, len(ids)):
        if begins[at] != begins[at - 1]:
            assert ours.decode(ids[:at]) == text[: begins[at]]


def test_pickles_and_sizes(ours: Tokenizer, theirs: object) -> None:
    again = pickle.loads(pickle.dumps(ours))
    assert again.encode(TEXTS[0]) == ours.encode(TEXTS[0]) and again.FILE == "tokenizer.json"
    assert ours.vocab_size == len(theirs)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a tokenizer.json"),
        (b"[]", "not a tokenizer.json"),
        (b"{}", r"not a tokenizer.json \('model' is missing\)"),
        (b'{"model": {"type": "Unigram", "vocab": []}}', "'Unigram' is not read"),
        (b'{"model": {"type": "BPE", "vocab": {}}}', "vocab and merges"),
        (b'{"model": {"type": "BPE", "vocab": {"a": "x"}, "merges": []}}', "not a whole number"),
    ],
)
def test_foreign_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert "tokenizer.json" in str(caught.value)


def test_a_folder_without_a_tokenizer_is_told_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither tokenizer.json nor tokenizer.model"):
        load_tokenizer(tmp_path)


def test_sentencepiece_has_the_same_interface(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / tokenizer.FILE).write_bytes(tokenizer.model)
    again = load_tokenizer(tmp_path)
    assert "".join(again.pieces(again.encode("red circle"))).replace("▁", " ") == "red circle"
    assert again.specials == {"<pad>": 0, "</s>": 1, "<s>": 2, "<unk>": 3}
