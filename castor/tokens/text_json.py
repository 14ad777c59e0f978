"""Hugging Face's `tokenizer.json` behind the interface of `Tokenizer`: BPE with byte fallback, as Gemma's is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from castor.tokens.text import SPACE_MARK, Tokenizer


class JsonTokenizer(Tokenizer):
    """A `tokenizer.json` as plain `encode` and `decode`. Needs the package `tokenizers` (extra "hub")."""

    FILE = "tokenizer.json"

    def __init__(self, model: bytes) -> None:
        """`model` is the content of a `tokenizer.json`; ValueError where it is not one."""
        try:
            import tokenizers
        except ImportError:
            raise ValueError("a tokenizer.json needs the package tokenizers: pip install 'castor[hub]'") from None
        self.model = model
        added = _special_tokens(model)
        self._tokenizer = tokenizers.Tokenizer.from_str(model.decode())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # what a text spells is never a special token
        self.specials: dict[str, int] = added
        self._special_ids = frozenset(added.values())
        vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = 1 + max(vocab.values())
        self._byte_ids = frozenset(vocab[name] for name in (f"<0x{byte:02X}>" for byte in range(256)) if name in vocab)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; never a special id, whatever the text spells."""
        return self.encode_at(text)[0]

    def encode_at(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of `text`, and for each the character of `text` where it begins."""
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        if not self._special_ids.isdisjoint(encoded.ids):  # merges that spell a special token's own piece
            spelt = [self._tokenizer.encode(character, add_special_tokens=False).ids for character in text]
            return [i for ids in spelt for i in ids], [at for at, ids in enumerate(spelt) for _ in ids]
        return encoded.ids, [begin for begin, _ in encoded.offsets]

    def surroundings(self) -> tuple[list[int], list[int]]:
        """Ids that the tokenizer's own post-processor puts before and after a text."""
        if self._tokenizer.post_processor is None:
            raise ValueError("the tokenizer.json has no post_processor, which says what stands around a text")
        plain, whole = (self._tokenizer.encode("a", add_special_tokens=added).ids for added in (False, True))
        start = next(at for at in range(len(whole)) if whole[at : at + len(plain)] == plain)
        return whole[:start], whole[start + len(plain) :]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens left out; bytes that do not form UTF-8 become U+FFFD."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def settled(self, ids: list[int]) -> list[int]:
        """`ids` without bytes and what has no text at their end: how bytes read is certain once they are over."""
        end = len(ids)
        while end and not self._ends_bytes(ids[end - 1]):
            end -= 1
        return ids[:end]

    def _ends_bytes(self, token_id: int) -> bool:
        """Whether bytes before this id are over: not by more bytes, a special token, or a row that is no token."""
        if token_id in self._byte_ids or token_id in self._special_ids:
            return False
        return self._tokenizer.id_to_token(token_id) is not None

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The vocabulary's own spelling of each id, for people to look at."""
        return [self._tokenizer.id_to_token(int(i)) or f"<{int(i)}>" for i in ids]

    def piece_bytes(self, token_id: int) -> bytes | None:
        """The bytes that a piece stands for; None for special tokens and ids that the vocabulary does not have."""
        piece = self._tokenizer.id_to_token(token_id)
        if piece is None or token_id in self._special_ids:
            return None
        return bytes([int(piece[3:-1], 16)]) if token_id in self._byte_ids else piece.replace(SPACE_MARK, " ").encode()

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[bytes]]:
        return JsonTokenizer, (self.model,)


def _special_tokens(model: bytes) -> dict[str, int]:
    """The special tokens with their ids; ValueError where these bytes are no BPE tokenizer of the form we read."""
    try:
        values = json.loads(model)
        kind, vocab, merges = (values["model"].get(key) for key in ("type", "vocab", "merges"))
        added = {token["content"]: token["id"] for token in values.get("added_tokens") or () if token["special"]}
    except KeyError as error:
        raise ValueError(f"not a tokenizer.json ({error} is missing)") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a tokenizer.json ({error!r})") from None
    if kind not in ("BPE", None) or not isinstance(vocab, dict) or not isinstance(merges, list):
        raise ValueError(f"a tokenizer.json of kind {kind!r} is not read; only BPE with its vocab and merges")
    if not all(isinstance(i, int) for i in (*vocab.values(), *added.values())):
        raise ValueError("not a tokenizer.json (an id is not a whole number)")
    return added


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a model's folder: `tokenizer.json` where there is one, else `tokenizer.model`."""
    path = Path(folder) / JsonTokenizer.FILE
    if not path.is_file():
        if not (Path(folder) / "tokenizer.model").is_file():
            raise ValueError(f"{folder}: no tokenizer there, neither {JsonTokenizer.FILE} nor tokenizer.model")
        return Tokenizer.load(folder)
    try:
        return JsonTokenizer(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
