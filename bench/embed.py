"""Vectors a second beside sentence-transformers: texts of mixed lengths, the same EmbeddingGemma 2 weights.

    python bench/embed.py --texts 256 --rounds 3

A text checkpoint of EmbeddingGemma 2's form and width (half its layers, few ids) with random weights, wrapped for
sentence-transformers (which then pools, normalises and sorts by length itself). "As it comes": theirs in float32 and
batches of 32, its defaults; ours in the precision that is fast here. "Same precision": both in that one, theirs given
the texts sorted by length. Both sides start from texts; rounds alternate, figures are medians.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from castor.runtime import before_torch, best_precision, hardware, prepare_cpu

WORDS = ("river", "stone", "paper", "cloud", "engine", "garden", "window", "silver", "quiet", "market", "travel")


def write_checkpoint(folder: Path, layers: int) -> None:
    """Weights as transformers initialises them, and a tokenizer of whole words, in a folder both sides read."""
    import tokenizers
    import torch
    import transformers
    from tokenizers import models, pre_tokenizers, processors

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *WORDS]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = transformers.EmbeddingGemma2TextConfig(
        vocab_size=4096, num_hidden_layers=layers, max_position_embeddings=2048
    )
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)


def texts(count: int) -> list[str]:
    """Of 4 to 250 words, most of them short."""
    rng = random.Random(0)
    lengths = [min(250, 4 + int(rng.expovariate(1 / 45))) for _ in range(count)]
    return [" ".join(rng.choice(WORDS) for _ in range(length)) for length in lengths]


def theirs(folder: Path, dtype: str) -> Any:
    """sentence-transformers with mean pooling and vectors of length 1."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    inner = Transformer(str(folder), model_kwargs={"dtype": dtype})
    size = inner.get_embedding_dimension()
    return SentenceTransformer(modules=[inner, Pooling(size, "mean"), Normalize()], device="cpu")


def ours(folder: Path, dtype: str) -> Callable[[list[str]], Any]:
    """The batches of `Model.embed`, on the ids of the same tokenizer."""
    import numpy as np
    import tokenizers
    import torch

    from castor.engine.embed import embed_sequences
    from castor.models.load import load_model
    from castor.tokens.sequence import Sequence

    decoder = load_model(folder, dtype=getattr(torch, dtype))
    tokenizer, no = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), np.zeros(0, dtype=np.int32)

    def sequence(ids: list[int]) -> Sequence:
        ids_T = np.array(ids, dtype=np.int32)
        return Sequence(
            ids_T=ids_T, is_target_T=ids_T < 0, block_T=np.full_like(ids_T, -1), patches_PC=no.reshape(0, 1), clip_S=no,
            patch_xy_P2=no.reshape(0, 2), patch_at_P=no, frames_SF=no.reshape(0, 1).astype(np.float32), frame_at_S=no,
        )  # fmt: skip

    @torch.inference_mode()
    def embed(given: list[str]) -> Any:
        encoded = tokenizer.encode_batch(given)
        return embed_sequences(decoder, [sequence(each.ids) for each in encoded], torch.device("cpu"))

    return embed


def main() -> None:
    """Compare the vectors, then measure every side in turn and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default=best_precision("cpu"),
        help="ours, and theirs where it is the same (default: what is fast here)",
    )
    parser.add_argument("--processor-time", action="store_true", help="one thread, seconds of the processor")
    args = parser.parse_args()
    clock = time.process_time if args.processor_time else time.perf_counter
    before_torch()
    prepare_cpu(1 if args.processor_time else None)
    import torch

    given = texts(args.texts)
    by_length = sorted(given, key=len, reverse=True)
    with tempfile.TemporaryDirectory() as temporary:
        write_checkpoint(Path(temporary), args.layers)
        as_it_comes, same = (theirs(Path(temporary), dtype) for dtype in ("float32", args.precision))
        mine, exact = (ours(Path(temporary), dtype) for dtype in (args.precision, "float32"))
        few = given[:16]
        apart = (torch.tensor(as_it_comes.encode(few)) - exact(few)).abs().max()
        print(f"{hardware()}\n{args.texts} texts; in float32 the vectors differ by {apart:.1e} at most\n")
        sides: dict[str, Callable[[], object]] = {
            "sentence-transformers, float32": lambda: as_it_comes.encode(given, batch_size=32),
            f"sentence-transformers, {args.precision}, sorted": lambda: same.encode(by_length, batch_size=32),
            f"castor, {args.precision}": lambda: mine(given),
        }
        found: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(args.rounds + 1):  # the first warms up
            for side, embed in sides.items():
                start_s = clock()
                embed()
                found[side] += [args.texts / (clock() - start_s)] * (number > 0)
    print("| Side | vectors/s |\n|---|--:|")
    medians = {side: statistics.median(rates) for side, rates in found.items()}
    for side, median in medians.items():
        print(f"| {side} | {median:,.0f} |")
    first, second, own = medians.values()
    print(f"\nas it comes {own / first:.2f}, same precision {own / second:.2f}")


if __name__ == "__main__":
    main()
