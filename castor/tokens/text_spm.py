"""A SentencePiece `tokenizer.model` as the `tokenizer.json` that says the same, for checkpoints without the latter.

SentencePiece joins the two neighbours whose joint piece has the best score; `tokenizer.json` names such pairs in order.
Every way to cut a piece into two pieces is therefore a merge, in the order of the piece's score.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from castor.tokens.text import SPACE_MARK

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # kinds of pieces in sentencepiece_model.proto
BPE = 2
MARK = re.compile(r"<\|.+>|<.+\|>")  # how the marks of turns and media are spelled
NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "mask_token")


def json_of_sentencepiece(model: bytes, about: Mapping[str, Any]) -> bytes:
    """The content of a `tokenizer.json` for the content of a `tokenizer.model`.

    `about` is what tokenizer_config.json says: tokens of its own with their ids, which tokens are special, and what
    stands around a text; added pieces that are spelled `<|name>`, `<name|>` or `<|name|>` are special as well.
    ValueError where the model is not one that this can say: BPE with bytes for what it lacks, of texts as they are.
    """
    proto = _parsed(model)
    vocab = {piece.piece: at for at, piece in enumerate(proto.pieces)}
    added = {piece.piece: at for at, piece in enumerate(proto.pieces) if piece.type in (CONTROL, USER_DEFINED)}
    special = {name for name, at in added.items() if proto.pieces[at].type == CONTROL or MARK.fullmatch(name)}
    for name, at, is_special in _own_tokens(about):
        added[name] = at
        special = special | {name} if is_special else special - {name}
    special |= {name for name in _named(about) if name in vocab or name in added}
    added |= {name: vocab[name] for name in special - added.keys()}
    unknown = next((piece.piece for piece in proto.pieces if piece.type == UNKNOWN), None)
    begin, end = _around(about)
    if missing := [name for name in (*begin, *end) if name not in added]:
        raise ValueError(f"tokenizer_config.json puts {missing[0]} around a text, which tokenizer.model does not have")
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [
                {"id": at, "content": name, "special": name in special, "normalized": SPACE_MARK in name}
                | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
                for name, at in sorted(added.items(), key=lambda item: item[1])
            ],
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK},
            "pre_tokenizer": None,
            "post_processor": _template(begin, end, added),
            "decoder": {
                "type": "Sequence",
                "decoders": [
                    {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "},
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                ],
            },
            "model": {
                "type": "BPE",
                "unk_token": unknown,
                "fuse_unk": True,
                "byte_fallback": True,
                "vocab": vocab,
                "merges": _merges(proto, vocab),
            },
        },
        ensure_ascii=False,
    ).encode()


def _parsed(model: bytes) -> Any:
    """The model's protocol buffer; ValueError where it is none that can be said in a tokenizer.json."""
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:
        raise ValueError(
            "a tokenizer.model beside published weights needs protobuf: pip install 'castor[hub]'"
        ) from None
    proto: Any = sentencepiece_model_pb2.ModelProto()  # ty: ignore[missing-attribute]
    try:
        proto.ParseFromString(model)
    except DecodeError:
        raise ValueError("not a SentencePiece model") from None
    how, norm = proto.trainer_spec, proto.normalizer_spec
    if not proto.pieces:
        raise ValueError("not a SentencePiece model (it has no pieces)")
    if how.model_type != BPE or sum(piece.type == BYTE for piece in proto.pieces) != 256:
        raise ValueError("only a BPE model with a piece for each byte is read")
    if norm.precompiled_charsmap or norm.add_dummy_prefix or norm.remove_extra_whitespaces:
        raise ValueError("a model that changes texts before it cuts them (normalizer_spec) is not read")
    return proto


def _merges(proto: Any, vocab: Mapping[str, int]) -> list[list[str]]:
    """Every cut of every learned piece into two others, the best pieces first."""
    learned = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    found: list[tuple[float, int, list[str]]] = []
    for piece, score in learned.items():
        cuts = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
        found += [(-score, vocab[piece], [left, right]) for left, right in cuts if left in learned and right in learned]
    return [pair for *_, pair in sorted(found, key=lambda entry: entry[:2])]


def _own_tokens(about: Mapping[str, Any]) -> list[tuple[str, int, bool]]:
    """Name, id and whether special of the tokens that tokenizer_config.json itself lists."""
    listed = about.get("added_tokens_decoder") or {}
    try:
        return [(str(token["content"]), int(at), bool(token.get("special"))) for at, token in listed.items()]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError("tokenizer_config.json: added_tokens_decoder must name tokens by their ids") from None


def _named(about: Mapping[str, Any]) -> list[str]:
    """The tokens that tokenizer_config.json gives a part to play."""
    extra = about.get("extra_special_tokens") or about.get("additional_special_tokens") or []
    extra = list(extra.values()) if isinstance(extra, Mapping) else extra
    named = [about.get(key) for key in NAMED] + (extra if isinstance(extra, list) else [])
    return [name["content"] if isinstance(name, Mapping) else name for name in named if name]


def _around(about: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The tokens before and after a text: by default, as in Gemma's tokenizers, one before it."""
    before, after = about.get("bos_token", "<bos>"), about.get("eos_token", "<eos>")
    names = [name["content"] if isinstance(name, Mapping) else name for name in (before, after)]
    return (
        [names[0]] if names[0] and about.get("add_bos_token", True) else [],
        [names[1]] if names[1] and about.get("add_eos_token", False) else [],
    )


def _template(begin: list[str], end: list[str], ids: Mapping[str, int]) -> dict[str, Any]:
    """The post-processor that puts these tokens around one text, or two."""

    def of(text: str, kind: int) -> list[dict[str, Any]]:
        marks = [[{"SpecialToken": {"id": name, "type_id": kind}} for name in names] for names in (begin, end)]
        return [*marks[0], {"Sequence": {"id": text, "type_id": kind}}, *marks[1]]

    return {
        "type": "TemplateProcessing",
        "single": of("A", 0),
        "pair": of("A", 0) + of("B", 1),
        "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in (*begin, *end)},
    }
