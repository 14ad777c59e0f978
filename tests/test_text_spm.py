"""A published folder with SentencePiece's tokenizer.model alone: id for id what SentencePiece itself says."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import castor
from castor.tokens.space import CONFIG_IDS
from castor.tokens.text_json import JsonTokenizer
from castor.tokens.text_spm import json_of_sentencepiece

published = pytest.importorskip("published")
pytest.importorskip("tokenizers")
pytest.importorskip("google.protobuf")

OWN = ("\n\n", "\n\n\n", "▁▁", "▁▁▁", "<table>", "<b>")  # pieces of the user's own that are no marks
ABOUT = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
TEXTS = (
    "The quick brown fox.",
    "",
    " ",
    "  two  spaces   three     five ",
    "\n\n\ttabs\r\n\n\n\n  and\u00a0lines\u2028\n",
    "<table><b> bold</b> </table> <ta ble>",
    "größer où ñandú ¿qué? æøå",
    "红色的圆在蓝色的方块左边。赤い丸はどこですか。빨간 원",
    "वृत्त लाल है 🙂🙂👩‍👩‍👧 e\u0301 é",
    "0123456789 3.14159 1,000,000",
    "def f(x):\n    return {'a': [x ** 2, -1.5e-3]}  # ok\n",
)


def trained(**changes: Any) -> bytes:
    """A model in the form of Gemma's tokenizer.model."""
    model = io.BytesIO()
    how: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": 900,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "allow_whitespace_only_pieces": True,
        "pad_id": 0,
        "eos_id": 1,
        "bos_id": 2,
        "unk_id": 3,
        "pad_piece": "<pad>",
        "eos_piece": "<eos>",
        "bos_piece": "<bos>",
        "unk_piece": "<unk>",
        "user_defined_symbols": [*published.TURNS, *OWN],
        "hard_vocab_limit": False,
        "minloglevel": 2,
    } | changes
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(published.LINES * 20), model_writer=model, **how)
    return model.getvalue()


@pytest.fixture(scope="module")
def model() -> bytes:
    return trained()


@pytest.fixture(scope="module")
def theirs(model: bytes) -> Any:
    return sentencepiece.SentencePieceProcessor(model_proto=model)


@pytest.fixture(scope="module")
def ours(model: bytes) -> JsonTokenizer:
    return JsonTokenizer(json_of_sentencepiece(model, ABOUT))


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_sentencepiece(ours: JsonTokenizer, theirs: Any, text: str) -> None:
    assert ours.encode(text) == theirs.encode(text)
    assert ours.decode(ours.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.sampled_from("abet <>lxo\n0129é红🙂.") | st.characters(exclude_categories=["Cs"])))
def test_any_text(ours: JsonTokenizer, theirs: Any, text: str) -> None:
    assume("▁" not in text and "\0" not in text and not any(name in text for name in ours.specials))
    assert ours.encode(text) == theirs.encode(text)
    assert ours.decode(ours.encode(text)) == text


def test_marks_are_special_and_other_own_pieces_are_not(ours: JsonTokenizer, theirs: Any) -> None:
    assert set(ours.specials) == {"<pad>", "<eos>", "<bos>", *published.TURNS} | ({"<unk>"} & set(ours.specials))
    assert all(at == theirs.piece_to_id(name) for name, at in ours.specials.items())
    for name in published.TURNS:
        assert not set(ours.encode(f"a {name} b")) & set(ours.specials.values())
        assert ours.decode(ours.encode(f"a {name} b")) == f"a {name} b"


def test_what_stands_around_a_text(model: bytes) -> None:
    around = {
        (True, False): ([2], []),
        (False, True): ([], [1]),
        (True, True): ([2], [1]),
        (False, False): ([], []),
    }
    for (begin, end), wanted in around.items():
        about = ABOUT | {"add_bos_token": begin, "add_eos_token": end}
        assert JsonTokenizer(json_of_sentencepiece(model, about)).surroundings() == wanted


def test_tokens_of_tokenizer_config(model: bytes, theirs: Any) -> None:
    new = theirs.vocab_size()
    listed = {str(new): {"content": "<extra>", "special": True}, "3": {"content": "<unk>", "special": True}}
    tokenizer = JsonTokenizer(json_of_sentencepiece(model, ABOUT | {"added_tokens_decoder": listed}))
    assert tokenizer.specials["<extra>"] == new and tokenizer.vocab_size == new + 1
    with pytest.raises(ValueError, match="added_tokens_decoder must name tokens by their ids"):
        json_of_sentencepiece(model, {"added_tokens_decoder": {"x": {}}})
    with pytest.raises(ValueError, match="puts <start> around a text"):
        json_of_sentencepiece(model, {"bos_token": "<start>"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "unigram"}, "only a BPE model"),
        ({"byte_fallback": False}, "a piece for each byte"),
        ({"add_dummy_prefix": True}, "changes texts before it cuts them"),
        ({"normalization_rule_name": "nfkc"}, "changes texts before it cuts them"),
    ],
)
def test_models_that_are_not_read(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        json_of_sentencepiece(trained(**changes), ABOUT)


@pytest.mark.parametrize("content", [b"", b"junk", b"\x0a\x03"])
def test_what_is_no_model(content: bytes) -> None:
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        json_of_sentencepiece(content, ABOUT)


def test_a_folder_loads_and_is_saved_with_it(tmp_path: Path, model: bytes, theirs: Any) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    published.write_checkpoint(folder, vocab_size=960)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(model)
    (folder / "tokenizer_config.json").write_text(json.dumps(ABOUT))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {key: theirs.piece_to_id(mark) for key, mark in CONFIG_IDS.items()})
    )
    loaded = castor.load(folder, device="cpu")
    assert loaded.tokenizer.encode("The quick brown fox") == theirs.encode("The quick brown fox")
    answer = loaded.generate("The quick brown fox", max_tokens=6)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again" / "tokenizer.json").is_file()
    assert castor.load(tmp_path / "again", device="cpu").generate("The quick brown fox", max_tokens=6) == answer
    (folder / "tokenizer.model").write_bytes(trained(model_type="unigram"))
    with pytest.raises(ValueError, match="tokenizer.model: only a BPE model"):
        castor.load(folder, device="cpu")
