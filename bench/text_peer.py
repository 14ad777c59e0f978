"""A sentence-transformers model of the same size at equal compute, on our pairs of texts.

    python bench/text_peer.py --minutes 8 --data FOLDER
    castor train embed model=atom minutes=8 data=FOLDER tasks=translated,docstring_code,real_translation
    python bench/text_peer.py --score runs/embed/model --data FOLDER

A BERT as wide and as deep as `atom` with a tokenizer of as many pieces, learned from the same texts, mean pooling and a
head of 256 numbers, wrapped by sentence-transformers: its forward, pooling and MultipleNegativesRankingLoss with our
hard negatives and its default scale; AdamW. It starts from nothing; `--pretrained-minutes` adds the minutes that our
model had before. `--score` scores one of ours on the same pools.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from castor.content import Message, Text
from castor.data.real.pairs import RealPairs
from castor.evals.retrieval import Pool, report_of
from castor.example import Pair
from castor.recipes.pairs import REAL_TASKS, WORLD_TASKS, pair_sources
from castor.recipes.real import real_data
from castor.recipes.retrieval import pool_of, world_pools
from castor.runtime import before_torch, best_precision, hardware, prepare_cpu

KINDS = ("translated", "docstring_code", "real_translation")
DIMENSIONS = (256, 64)
PIECES, WIDTH, LAYERS, HEADS, FEED_FORWARD = 4096, 192, 4, 3, 768  # those of `atom`


def text_of(message: Message) -> str:
    """Its texts, one after the other."""
    return " ".join(part.text for part in message.parts if isinstance(part, Text))


def learned_tokenizer(sources: dict[str, Any], folder: Path, count: int = 6000) -> None:
    """Byte-level BPE of as many pieces as ours, from texts of the training pairs."""
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    rng = random.Random("tokenizer")
    pairs = (source.pair(rng) for source in sources.values() for _ in range(count))
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator((text_of(side) for pair in pairs for side in (pair.query, pair.target)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), specials, strict=True))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def new_model(sources: dict[str, Any], folder: Path) -> Any:
    """The peer, random."""
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    learned_tokenizer(sources, folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=PIECES, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=FEED_FORWARD, max_position_embeddings=512,
    )  # fmt: skip
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    inner = Transformer(str(folder), max_seq_length=256)
    head = Dense(WIDTH, DIMENSIONS[0], bias=False, activation_function=torch.nn.Identity())
    return SentenceTransformer(modules=[inner, Pooling(WIDTH, "mean"), head, Normalize()], device="cpu")


def steps(sources: dict[str, Any], seed: int = 0) -> Iterator[list[Pair]]:
    """Steps of one kind at our rates of fine-tuning, no meaning twice in one."""
    tasks = {name: ({**WORLD_TASKS, **REAL_TASKS})[name][1] for name in sources}
    rng = random.Random(seed)
    while True:
        name = rng.choices(list(tasks), [rate for rate, _ in tasks.values()])[0]
        pairs = (sources[name].pair(rng) for _ in range(tasks[name][1]))
        yield list({pair.target_key: pair for pair in pairs}.values())


def train(model: Any, sources: dict[str, Any], minutes: float, rate: float) -> int:
    """Until the minutes are over; gives the number of steps."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    loss_of = MultipleNegativesRankingLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    start_s, step, share = time.monotonic(), 0, 0.0
    model.train()
    for pairs in steps(sources):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * share))
        sides = [[text_of(pair.query) for pair in pairs], [text_of(pair.target) for pair in pairs]]
        if all(pair.negative is not None for pair in pairs):
            sides.append([text_of(pair.negative) for pair in pairs if pair.negative is not None])
        with torch.autocast("cpu", torch.bfloat16, enabled=best_precision("cpu") == "bfloat16"):
            loss = loss_of([model.preprocess(side) for side in sides], torch.zeros(0))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, share = step + 1, (time.monotonic() - start_s) / (60 * minutes)
        if step % 25 == 0 or share >= 1:
            print(f"step {step}  {100 * share:.0f} %  loss {float(loss.detach()):.3f}", flush=True)
        if share >= 1:
            break
    return step


def pools(limit: int, data: Any) -> dict[str, list[Pair]]:
    """Held-out pairs of texts."""
    found = {name: pairs for name, pairs in world_pools(limit, 0).items() if name in KINDS}
    real = RealPairs("real_translation", data, "test")
    if data.sources and real.size > 1:
        rng = random.Random("pool/real_translation")
        found["real_translation"] = [real.pair(rng) for _ in range(min(limit, real.size))]
    return found


def peer_pool(model: Any, name: str, pairs: list[Pair]) -> Pool:
    """Vectors of both sides by the peer, without words of tasks."""
    sides = ([text_of(pair.query) for pair in pairs], [text_of(pair.target) for pair in pairs])
    query_QE, target_NE = (np.asarray(model.encode(side, show_progress_bar=False), np.float32) for side in sides)
    keys = np.array([pair.target_key for pair in pairs])
    return Pool(name, query_QE, target_NE, keys[:, None] == keys[None])


def main() -> None:
    """Train and score the peer, or score one of ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--pretrained-minutes", type=float, default=0.0, help="minutes our model was trained before")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--limit", type=int, default=1000, help="pairs of a pool")
    parser.add_argument("--data", default="")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--score", metavar="MODEL", help="one of ours, instead of the peer")
    parser.add_argument("--out", default="text_peer.json")
    arguments = parser.parse_args()
    before_torch()
    prepare_cpu(arguments.threads)
    data = real_data(arguments.data)
    about: dict[str, Any] = {"hardware": hardware()}
    if arguments.score:
        from castor.engine.model import load

        own = load(arguments.score, device="cpu")
        scored = [pool_of(own, name, pairs) for name, pairs in pools(arguments.limit, data).items()]
    else:
        sources = {name: source for name, source in pair_sources(0, data).items() if name in KINDS}
        with tempfile.TemporaryDirectory() as folder:
            model = new_model(sources, Path(folder))
        about["parameters"] = sum(p.numel() for p in model.parameters())
        about["minutes"] = arguments.minutes + arguments.pretrained_minutes
        print(f"{about['parameters']:,} parameters; {hardware()}")
        about["steps"] = train(model, sources, about["minutes"], arguments.rate)
        model.eval()
        scored = [peer_pool(model, name, pairs) for name, pairs in pools(arguments.limit, data).items()]
    report = report_of(scored, DIMENSIONS, about)
    print(report.to_markdown())
    Path(arguments.out).write_text(json.dumps(about | json.loads(report.dumps()), indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
