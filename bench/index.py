"""Indexing a folder of mixed files, with the profile of where the time goes.

    python bench/index.py --files 2000 --model FOLDER
    python bench/index.py --folder ~/things --model google/embeddinggemma-2

Without --folder it makes one: pictures of 640 pixels as JPEG and PNG, recordings of 4 to 70 s, clips of up to 40 s, PDF
pages, notes and code. "decode" is reading, decoding and cutting, in threads beside the rest; "wait" is how long the
model had nothing to do because of it; "embed" is the model with its own resizing and features; "write" is the store.
The job is bound by decoding where "wait" is most of the total. Then one file in ten is renamed, and nothing embedded.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np

from castor.runtime import before_torch, hardware, prepare_cpu

SHARES = {"jpg": 0.4, "png": 0.1, "wav": 0.15, "mp4": 0.05, "pdf": 0.1, "md": 0.12, "py": 0.08}


def make_files(folder: Path, count: int, seed: int = 0) -> None:
    """About `count` files, every one different."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    makers = {"jpg": picture, "png": picture, "wav": recording, "mp4": clip, "pdf": pages, "md": note, "py": code}
    for kind, share in SHARES.items():
        for at in range(max(1, round(count * share))):
            (folder / f"{kind}-{at:05}.{kind}").write_bytes(makers[kind](rng, numbers, kind))


def picture(rng: random.Random, numbers: np.random.Generator, kind: str) -> bytes:
    """Blurred colours with grain, 640 x 480: as costly to decode as a photo of that size."""
    import io

    from PIL import Image

    coarse = numbers.integers(0, 256, (6, 8, 3), np.uint8)
    fine = np.asarray(Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC), np.int16)
    pixels = np.clip(fine + numbers.normal(0, 6, fine.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG" if kind == "jpg" else "PNG")
    return buffer.getvalue()


def recording(rng: random.Random, numbers: np.random.Generator, kind: str) -> bytes:
    """A gliding tone with noise."""
    from castor.media.audio import encode_wav

    return encode_wav(tone(rng, numbers, rng.uniform(4, 70)))


def tone(rng: random.Random, numbers: np.random.Generator, seconds: float) -> np.ndarray:
    """Samples at 16 kHz."""
    times = np.arange(int(16_000 * seconds)) / 16_000
    sweep = np.sin(2 * np.pi * (rng.uniform(100, 800) * times + rng.uniform(1, 20) * times**2))
    return (0.3 * sweep + 0.02 * numbers.standard_normal(len(times))).astype(np.float32)


def clip(rng: random.Random, numbers: np.random.Generator, kind: str) -> bytes:
    """A square that moves, 320 x 240 at 12 frames a second, with sound."""
    from castor.media.video import encode_mp4

    seconds = rng.uniform(3, 40)
    frames = np.repeat(numbers.integers(0, 256, (1, 240, 320, 3), np.uint8) // 4, int(12 * seconds), axis=0)
    for at, frame in enumerate(frames):
        frame[100:140, at * 3 % 280 : at * 3 % 280 + 40] = 255
    return encode_mp4(frames, 12, tone(rng, numbers, seconds))


def pages(rng: random.Random, numbers: np.random.Generator, kind: str) -> bytes:
    """A PDF of one to six pages: pictures, as of a scanner."""
    import io

    from PIL import Image

    shown = []
    for _ in range(rng.randint(1, 6)):
        rows = np.full((1100, 850), 255, np.uint8)
        for line in range(60, 1040, 24):
            ends = rng.randint(300, 780)
            rows[line : line + 10, 60:ends] = numbers.integers(0, 256, (10, ends - 60), np.uint8) // 128 * 255
        shown.append(Image.fromarray(rows))
    buffer = io.BytesIO()
    shown[0].save(buffer, "PDF", save_all=True, append_images=shown[1:])
    return buffer.getvalue()


WORDS = ["boat", "harbour", "heron", "mast", "rope", "light", "rain", "winter", "letter", "table", "bread", "river"]


def note(rng: random.Random, numbers: np.random.Generator, kind: str) -> bytes:
    """Headings and paragraphs."""
    parts = []
    for at in range(rng.randint(2, 12)):
        parts.append(f"## Part {at}\n\n" + " ".join(rng.choices(WORDS, k=rng.randint(20, 200))) + ".\n")
    return "\n".join(parts).encode()


def code(rng: random.Random, numbers: np.random.Generator, kind: str) -> bytes:
    """Functions."""
    made = []
    for at in range(rng.randint(3, 20)):
        lines = [f"    {rng.choice(WORDS)}_{line} = {rng.randint(0, 999)}" for line in range(rng.randint(2, 15))]
        made.append(f"def {rng.choice(WORDS)}_{at}():\n" + "\n".join(lines) + "\n")
    return "\n\n".join(made).encode()


def main() -> None:
    """Prints the profile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--folder")
    parser.add_argument("--model", default="atom-vectors")
    parser.add_argument("--threads", type=int, default=2, help="of the model")
    parser.add_argument("--readers", type=int, default=2, help="threads that read and decode")
    arguments = parser.parse_args()
    before_torch()
    prepare_cpu(arguments.threads)
    import castor
    from castor.index.build import Report

    def tell(what: str, report: Report) -> None:
        told = "  ".join(f"{name} {seconds:.1f} s" for name, seconds in report.seconds.items())
        print(f"{what}: {report.total_s:.1f} s, {report.num_pieces:,} pieces  ({told})", flush=True)

    with tempfile.TemporaryDirectory(prefix="castor-bench-") as scratch:
        folder = Path(arguments.folder).expanduser() if arguments.folder else Path(scratch) / "things"
        if not arguments.folder:
            start_s = time.perf_counter()
            make_files(folder, arguments.files)
            print(f"{arguments.files} files made in {time.perf_counter() - start_s:.0f} s")
        print(f"{hardware()}; {arguments.model}, {arguments.threads} + {arguments.readers} threads")
        index = castor.Index(Path(scratch) / "index", model=arguments.model)
        report = index.update(folder, num_threads=arguments.readers)
        tell("first run", report)
        for kind, (files, pieces) in index.store.counts().items():
            print(f"  {kind:<10} {files:>6,} files {pieces:>7,} pieces")
        size_mb = (index.folder / "index.db").stat().st_size / 1e6
        print(f"  {len(report.problems)} files not read; index.db {size_mb:.1f} MB")
        tell("second run, nothing changed", index.update(folder, num_threads=arguments.readers))
        if not arguments.folder:
            for path in sorted(folder.iterdir())[::10]:
                path.rename(path.with_name(f"renamed-{path.name}"))
            tell("one in ten renamed", index.update(folder, num_threads=arguments.readers))
        start_s = time.perf_counter()
        for word in WORDS:
            index.search(f"{word} in winter")
        print(f"search: {1000 * (time.perf_counter() - start_s) / len(WORDS):.0f} ms a question, with its embedding")


if __name__ == "__main__":
    main()
