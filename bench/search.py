"""Searching among many vectors: recall of the exact ten nearest, milliseconds a question, memory; every form beside.

    python bench/search.py --count 1000000 --threads 2
    python bench/search.py --own 50000               vectors that a model makes of so many sentences
    python bench/search.py --vectors mine.npy        rows of one's own, of length 1, the last --queries as questions

Whole vectors lie in a file in 16-bit floats, mapped, as an index keeps them; what a form holds in memory beside them is
its own column. Questions come one by one; "busy" is the processor's time of a question, of all its threads, which other
work beside lengthens less. Invented vectors lie in clusters, which flatters every form: for a statement on real ones,
give real ones. "exact" is measured on few questions; it reads every vector.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from castor.runtime import hardware

CHUNK = 1 << 16
FORMS = ("exact", "int8", "bits", "graph of bits", "graph of bfloat16")


def invented(path: Path, count: int, dimensions: int, num_queries: int, seed: int = 0) -> tuple[Any, np.ndarray]:
    """`count` vectors in clusters of about a hundred as a mapped float16 file, and questions of the same clusters."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, count // 100), dimensions), np.float32)

    def some(number: int) -> np.ndarray:
        made = centres[rng.integers(len(centres), size=number)]
        made = made + 0.7 * rng.standard_normal((number, dimensions), np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    mapped = np.lib.format.open_memmap(path, "w+", np.float16, (count, dimensions))
    for at in range(0, count, CHUNK):
        mapped[at : at + CHUNK] = some(min(CHUNK, count - at))
    mapped.flush()
    return np.load(path, mmap_mode="r"), some(num_queries)


def given(source: str, path: Path, num_queries: int) -> tuple[Any, np.ndarray]:
    """One's own vectors in the same form; the last rows are the questions."""
    vectors = np.load(source, mmap_mode="r")
    mapped = np.lib.format.open_memmap(path, "w+", np.float16, (len(vectors) - num_queries, vectors.shape[1]))
    for at in range(0, len(mapped), CHUNK):
        mapped[at : at + CHUNK] = vectors[at : min(at + CHUNK, len(mapped))]
    mapped.flush()
    return np.load(path, mmap_mode="r"), np.array(vectors[-num_queries:], np.float32)


def own_vectors(path: Path, count: int, model: str) -> str:
    """Vectors of `count` different sentences about pictures in six languages, in a file."""
    import castor
    from castor.content import Text
    from castor.diorama.pairs import WorldPairs

    embedder, source = castor.load(model, device="cpu"), WorldPairs("translated", 0, "test")
    sentences: dict[str, None] = {}
    index = 0
    while len(sentences) < count:
        pair = source.at(index)
        parts = (part for side in (pair.query, pair.target) for part in side.parts)
        sentences |= dict.fromkeys(part.text for part in parts if isinstance(part, Text))
        index += 1
    texts = list(sentences)[:count]
    np.save(path, np.concatenate([embedder.embed(*texts[at : at + 4096]).numpy() for at in range(0, count, 4096)]))
    return str(path)


def measured(form: str, vectors: Any, queries_QE: np.ndarray, wanted: np.ndarray, k: int) -> dict[str, float]:
    """Seconds to build, MiB held beside the whole vectors, recall@k, and milliseconds of single questions."""
    from castor.index.graph import Graph
    from castor.index.neighbours import candidates_of, exact, recall, rescored

    start_s, before = time.perf_counter(), resident_mib()
    kind, _, of = form.partition(" of ")
    candidates: Any = Graph.made(of, vectors) if kind == "graph" else candidates_of(form, vectors)
    build_s = time.perf_counter() - start_s
    held = candidates.memory_bytes / 2**20 if kind == "graph" else held_mib(candidates)
    found, took_ms, busy_ms = [], [], []
    for query_E in queries_QE:
        start_s, busy_s = time.perf_counter(), time.process_time()
        if candidates is None:
            rows, _ = exact(vectors, query_E[None], k)
        else:
            rows, _ = rescored(vectors, candidates, query_E[None], k)
        took_ms.append(1000 * (time.perf_counter() - start_s))
        busy_ms.append(1000 * (time.process_time() - busy_s))
        found.append(rows[0])
    return {
        "build s": build_s,
        "held MiB": held,
        "grew MiB": resident_mib() - before,
        f"recall@{k}": recall(np.stack(found), wanted),
        "median ms": float(np.median(took_ms)),
        "p95 ms": float(np.quantile(took_ms, 0.95)),
        "median busy ms": float(np.median(busy_ms)),
    }


def held_mib(candidates: Any) -> float:
    """Arrays that candidates hold."""
    arrays = [value for value in vars(candidates).values() if isinstance(value, np.ndarray)] if candidates else []
    return sum(array.nbytes for array in arrays) / 2**20


def resident_mib() -> float:
    """Memory of this process, mapped pages included."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Prints one line a form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--neighbours", type=int, default=10)
    parser.add_argument("--vectors", metavar="FILE.npy")
    parser.add_argument("--own", type=int, metavar="N", help="vectors of N sentences instead, by --model")
    parser.add_argument("--model", default="atom-vectors")
    parser.add_argument("--forms", default=",".join(FORMS), help="comma-separated")
    arguments = parser.parse_args()
    import torch

    from castor.index.neighbours import Vectors, exact

    torch.set_num_threads(arguments.threads)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    with tempfile.TemporaryDirectory(prefix="castor-bench-") as folder:
        path = Path(folder) / "vectors.npy"
        if arguments.own:
            arguments.vectors = own_vectors(Path(folder) / "own.npy", arguments.own, arguments.model)
        if arguments.vectors:
            rows, queries_QE = given(arguments.vectors, path, arguments.queries)
        else:
            rows, queries_QE = invented(path, arguments.count, arguments.dimensions, arguments.queries)
        vectors = Vectors(np.arange(len(rows)), [rows])
        print(f"{hardware()}; {arguments.threads} threads")
        size_gib = path.stat().st_size / 2**30
        print(f"{len(rows):,} x {rows.shape[1]} float16 in {size_gib:.2f} GiB, {len(queries_QE)} questions")
        wanted, _ = exact(vectors, queries_QE, arguments.neighbours)
        for form in arguments.forms.split(","):
            asked = slice(0, 5 if form == "exact" else None)
            row = measured(form, vectors, queries_QE[asked], wanted[asked], arguments.neighbours)
            print(f"{form:<18} " + "  ".join(f"{name} {value:,.3f}" for name, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
