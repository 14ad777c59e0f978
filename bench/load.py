"""Loading a large sharded checkpoint: seconds and peak memory, beside `transformers`.

    python bench/load.py --gb 1 --rounds 3
    python bench/load.py --gb 3 --saved bfloat16

Writes a checkpoint of the form of `gemma4_unified` with random weights, in shards, to a temporary folder (its size is
needed on the disk). Each loading runs in a process of its own, and the sides take turns at being first. Before it,
the files are read, so that they are in the page cache, and the process fills as much memory as the loading may need and
gives it back: in a virtual machine the first use of a page that the host has not given out yet takes up to ten times as
long as the next (3 s a GB against 0.3 s on ours), and what was measured was whose turn it was to pay for that.

"Peak" is the growth of the process's largest resident size over what it was with everything imported, and includes
pages of the files themselves; "CPU s" is what all threads took together; "then" adds one sum over every weight, which
touches each page.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from castor.runtime import available_bytes

LAYERS, WIDTH = 12, 2048

LOADERS = {
    "castor": "from castor.models.load import load_model as load",
    "transformers": (
        "import transformers; transformers.logging.set_verbosity_error(); transformers.logging.disable_progress_bar(); "
        "load = transformers.Gemma4UnifiedForConditionalGeneration.from_pretrained"
    ),
}
CHILD = """
import ctypes, json, mmap, sys, time, torch
{imports}
room = mmap.mmap(-1, int(sys.argv[3]))
ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(room)), 1, len(room))
room.close()
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
peak = lambda: next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before, start, start_cpu = peak(), time.perf_counter(), time.process_time()
model = load(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
loaded, seconds, cpu = peak() - before, time.perf_counter() - start, time.process_time() - start_cpu
with torch.inference_mode():
    total = sum(float(weight.sum(dtype=torch.float32)) for weight in model.parameters())
print(json.dumps([seconds, cpu, loaded, time.perf_counter() - start, peak() - before, total]))
"""


def write_checkpoint(folder: Path, size_gb: float, saved: str, shard_gb: float) -> int:
    """A text checkpoint of about `size_gb` in shards of about `shard_gb`; gives its bytes."""
    import torch
    from safetensors.torch import save_file

    from castor.checkpoint import save_json
    from castor.models.config import ModelConfig, TextConfig
    from castor.models.decoder import Decoder

    dtype = getattr(torch, saved)
    per_layer = 2 * (WIDTH * WIDTH) + 2 * WIDTH * WIDTH // 8 + 3 * WIDTH * WIDTH
    embedding_rows = 32_768
    left = size_gb * 1e9 / dtype.itemsize - embedding_rows * WIDTH - LAYERS * per_layer
    wider = max(1, round(left / (3 * WIDTH * LAYERS) / 256))
    text = TextConfig(
        vocab_size=embedding_rows,
        hidden_size=WIDTH,
        intermediate_size=WIDTH + 256 * wider,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // 256,
        num_key_value_heads=1,
        head_dim=256,
        global_head_dim=256,
    )
    config = ModelConfig(text=text)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Decoder(config).state_dict().items()}
    shards: list[dict[str, torch.Size]] = [{}]
    for name, shape in shapes.items():
        if sum(s.numel() for s in shards[-1].values()) * dtype.itemsize > shard_gb * 1e9:
            shards.append({})
        shards[-1][f"model.{name}"] = shape
    weight_map, total = {}, 0
    for number, part in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {
            name: torch.ones(s, dtype=dtype) if "norm" in name or "scalar" in name else torch.randn(s, dtype=dtype)
            for name, s in part.items()
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
        total += sum(s.numel() for s in part.values()) * dtype.itemsize
    save_json(folder / "config.json", config.to_hf(saved))
    save_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
    return total


def measure(name: str, folder: Path, dtype: str, room: int) -> list[float]:
    """[seconds, CPU s, peak, seconds with every weight summed, peak then, the sum] of a loading in a fresh process."""
    for path in folder.glob("*.safetensors"):
        path.read_bytes()
    program = CHILD.format(imports=LOADERS[name])
    room = min(room, int(0.8 * (available_bytes() or room)))
    words = [sys.executable, "-c", program, str(folder), dtype, str(room)]
    result = subprocess.run(words, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{name} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Write, load with each, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0, help="size of the checkpoint (default: 1)")
    parser.add_argument("--shard-gb", type=float, default=0.25, help="size of a shard (default: 0.25)")
    parser.add_argument("--saved", default="bfloat16", choices=("float32", "bfloat16"), help="type on the disk")
    parser.add_argument("--rounds", type=int, default=3, help="loadings of each, alternating (default: 3)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        size = write_checkpoint(folder, arguments.gb, arguments.saved, arguments.shard_gb)
        count = len(list(folder.glob("*.safetensors")))
        print(f"{size / 1e9:.2f} GB in {arguments.saved}, {count} shards; medians of {arguments.rounds} rounds\n")
        columns = ("loaded as", "by", "seconds", "CPU s", "peak GB", "seconds then", "peak GB then")
        print(f"| {' | '.join(columns)} |\n|---|---|{'--:|' * 5}")
        for dtype in ("bfloat16", "float32"):
            rounds: dict[str, list[list[float]]] = {name: [] for name in LOADERS}
            for number in range(arguments.rounds):
                for name in list(LOADERS)[:: -1 if number % 2 else 1]:
                    room = size * (4 if dtype == "float32" else 1)
                    rounds[name].append(measure(name, folder, dtype, room))
            sums = {name: kept[0][5] for name, kept in rounds.items()}
            ours, theirs = sums.values()
            assert abs(ours - theirs) <= 1e-3 * max(1.0, abs(theirs)), f"different weights: {sums}"
            for name, kept in rounds.items():
                seconds, cpu, peak, seconds_then, peak_then, _ = map(statistics.median, zip(*kept, strict=True))
                figures = f"{seconds:.2f} | {cpu:.2f} | {peak / 1e9:.2f} | {seconds_then:.2f} | {peak_then / 1e9:.2f}"
                print(f"| {dtype} | {name} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
