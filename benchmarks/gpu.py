"""A build on one GPU: what the device can do, what the build reaches, and the ratio; nothing where there is no GPU.

Ceilings are measured in the same run: copying memory on the device, float32 matrix products, and the bare forward +
activation-backward pass over the very batches of the build. A build ends on the host: folding is done on the device,
encoding, sorting and writing are not. Search reads memory maps on the host (see benchmarks/search.py).

    python benchmarks/gpu.py [--rows 8192] [--repeats 3]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from report import WORK, heading, save, spread, table, use_threads

if TYPE_CHECKING:
    from headwater import Run

GIB = 1 << 30
DEVICE = "cuda"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8_192, help="rows of AG News, for MiniLM at 64 tokens")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    use_threads(2)
    import torch

    if not torch.cuda.is_available():
        print("no GPU here: nothing measured")
        return
    print(heading(f"A build on {torch.cuda.get_device_name()}"), "\n")
    copied, multiplied = ceilings(options.repeats)
    print(f"copying on the device: {copied:,.0f} GB/s; float32 products of 4,096: {multiplied:,.1f} TFLOP/s\n")
    found = measure(options.rows, options.repeats)
    columns = ["rows", "build s", "bare s", "build / bare", "rows/s", "MB", "MB/s written"]
    build, bare = statistics.median(found["build"]), statistics.median(found["bare"])
    pairs = [one / other for one, other in zip(found["build"], found["bare"], strict=True)]
    cells = [f"{options.rows:,}", spread(found["build"]), spread(found["bare"]), spread(pairs, 3)]
    cells += [f"{options.rows / build:,.0f}", f"{found['bytes'] / 1e6:.1f}", f"{found['bytes'] / 1e6 / build:.1f}"]
    print(table(columns, [cells]))
    flops = 2 * found["parameters"] * found["tokens"] * 2  # a forward pass, and a backward pass to activations alone
    print(
        f"\nthe bare pass reaches {flops / bare / 1e12:.2f} TFLOP/s, {flops / bare / 1e12 / multiplied:.1%} of products"
    )
    print(save("gpu", {**found, "copy_gb_s": copied, "product_tflop_s": multiplied}))


def ceilings(repeats: int) -> tuple[float, float]:
    """GB/s of a copy (read and written), and TFLOP/s of a float32 product, medians."""
    import torch

    block = torch.empty(GIB, dtype=torch.uint8, device=DEVICE)
    copies = [clocked(block.clone) for _ in range(repeats + 1)][1:]
    left = torch.randn(4096, 4096, device=DEVICE)
    products = [clocked(lambda: left @ left) for _ in range(repeats + 1)][1:]
    return 2 * GIB / statistics.median(copies) / 1e9, 2 * 4096**3 / statistics.median(products) / 1e12


def measure(rows: int, repeats: int) -> dict[str, Any]:
    """Seconds of builds and bare passes in turns, after one of each to warm up."""
    from workloads import ag_news, minilm_run

    run = minilm_run("gpu", ag_news(rows))
    passes, tokens, parameters = bare_passes(run)
    build(run)
    passes()
    found: dict[str, Any] = {"rows": rows, "tokens": tokens, "parameters": parameters, "build": [], "bare": []}
    for _ in range(repeats):
        found["build"].append(clocked(lambda: found.update(bytes=build(run))))
        found["bare"].append(clocked(passes))
    return found


def build(run: Run) -> int:
    """Build the index from nothing on the device; returns its bytes."""
    from headwater import Index

    folder = WORK / "indexes" / "gpu"
    shutil.rmtree(folder, ignore_errors=True)
    size = Index.build(run, folder, device=DEVICE).bytes
    shutil.rmtree(folder)
    return size


def bare_passes(run: Run) -> tuple[Callable[[], None], int, int]:
    """Make the batches of a build, on the device; returns the passes, their tokens, and the encoder's parameters."""
    from bare import bare_pass
    from headwater.gradients import batch_tokens, encoded_batches
    from headwater.store import RANGE_ROWS

    model = run.checkpoints[0].load().requires_grad_(False).to(DEVICE)
    embedding = model.get_input_embeddings()
    batches = []
    for start in range(0, len(run.corpus), RANGE_ROWS):
        examples = run.corpus.rows(start, min(start + RANGE_ROWS, len(run.corpus)))
        targets = run.task.targets([example.label for example in examples], model.config, where="corpus")
        encodings = run.task.encode(run.tokenizer, examples)
        batches += encoded_batches(run, encodings, targets, first_row=start, tokens=batch_tokens(DEVICE))
    moved = [batch.to(DEVICE) for batch in batches]
    tokens = sum(int(batch.inputs["input_ids"].numel()) for batch in moved)
    looked_up = sum(part.weight.numel() for part in model.modules() if type(part).__name__ == "Embedding")
    parameters = sum(each.numel() for each in model.parameters()) - looked_up

    def passes() -> None:
        for batch in moved:
            bare_pass(model, embedding, batch.inputs, batch.targets)

    return passes, tokens, parameters


def clocked(work: Callable[[], object]) -> float:
    import torch

    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
