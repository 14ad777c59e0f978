"""Tokenizer: text <-> ids with SentencePiece BPE, byte fallback and split digits, so that any string round-trips."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

SPACE_MARK = "\u2581"  # what SentencePiece writes for a space inside its pieces
PAD_ID, EOS_ID, BOS_ID, UNK_ID = 0, 1, 2, 3


class Tokenizer:
    """A SentencePiece model as plain `encode` and `decode`; `decode(encode(text)) == text` for every text."""

    FILE = "tokenizer.model"  # what it is called in a model's folder

    def __init__(self, model: bytes) -> None:
        """`model` is the content of a `tokenizer.model` file; ValueError where it is not one."""
        import sentencepiece

        self.model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(f"not a SentencePiece model ({error})") from None
        self.vocab_size: int = self._processor.vocab_size()
        control = [i for i in range(self.vocab_size) if self._processor.is_control(i) or self._processor.is_unknown(i)]
        self.specials: dict[str, int] = {self._processor.id_to_piece(i): i for i in control}
        self._mark_ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """The tokenizer in `path`, a file or a model folder that holds `tokenizer.model`."""
        path = Path(path)
        path = path / "tokenizer.model" if path.is_dir() else path
        if not path.is_file():
            raise ValueError(f"{path}: no tokenizer there")
        try:
            return cls(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; never a special id, whatever the text spells."""
        first, *rest = text.split(SPACE_MARK)  # spelt in bytes, as its piece would come back as a space
        ids: list[int] = self._processor.encode(first)
        for piece in rest:
            ids += self._mark_ids + self._processor.encode(piece)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that do not form UTF-8 become U+FFFD."""
        return self._processor.decode([int(i) for i in ids])

    def piece_bytes(self, token_id: int) -> bytes | None:
        """The bytes that a piece stands for; None for padding, unknown and the like, which stand for nothing."""
        if self._processor.is_control(token_id) or self._processor.is_unknown(token_id):
            return None
        piece: str = self._processor.id_to_piece(token_id)
        if self._processor.is_byte(token_id):
            return bytes([int(piece[3:-1], 16)])
        return piece.replace(SPACE_MARK, " ").encode()

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The vocabulary's own spelling of each id, for people to look at."""
        return [self._processor.id_to_piece(int(i)) for i in ids]

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[bytes]]:
        return Tokenizer, (self.model,)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 4096, num_threads: int = 2) -> Tokenizer:
    """A tokenizer learned from `texts`; the same texts in the same order give the same model, byte for byte."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_lines(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        allow_whitespace_only_pieces=True,
        character_coverage=0.9995,
        pad_id=PAD_ID,
        eos_id=EOS_ID,
        bos_id=BOS_ID,
        unk_id=UNK_ID,
        hard_vocab_limit=False,
        max_sentence_length=16384,
        num_threads=num_threads,
        minloglevel=2,
    )
    return Tokenizer(model.getvalue())


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from (line for line in text.split("\n") if line)
