"""Does deleting faulty instruction rows help a language model, and does the proof say so? SmolLM2-135M with LoRA.

Short instructions (rasbt's, Apache-2.0), a quarter of whose completions changed places among each other: each answers
another question. One plan deletes these rows, the other as many sound ones. Told is what `headwater fix` tells.

    python benchmarks/fix_language.py [--rows 160] [--test 80] [--epochs 1] [--seeds 3]
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import shutil
import time
from typing import Any

from report import WORK, data_folder, heading, save, table, use_threads

FORM = "{instruction}\n{input}\n"


def main() -> None:
    options = read_options()
    use_threads(options.threads)
    title = heading("Faulty completions deleted: a proof of a language model")
    import headwater as hw
    from headwater.remedies.apply import planned
    from headwater.remedies.page import signed
    from headwater.remedies.plan import Plan, Repair
    from headwater.remedies.proof import prove, sentence
    from headwater.training import TrainSettings, train

    rows, faulty = spoiled(options)
    columns = hw.Columns(text="prompt", label="completion")
    corpus = hw.Corpus.read(rows[: options.rows], columns, name="instructions")
    test = hw.Corpus.read(rows[options.rows :], columns, name="held out")
    folder = WORK / "fix_language"
    shutil.rmtree(folder, ignore_errors=True)
    settings = TrainSettings(
        model="smollm2", lora=True, epochs=options.epochs, batch_size=8, max_length=64, learning_rate=options.rate,
        checkpoints=1, device="cpu",
    )  # fmt: skip
    started = time.perf_counter()
    run = train(corpus, hw.CausalLM(), folder / "run", settings, eval_corpus=test, show=False)
    once = time.perf_counter() - started
    sound = [row for row in range(options.rows) if row not in faulty]
    plans = {
        "delete the faulty rows": sorted(faulty),
        "delete as many sound rows": sorted(random.Random(1).sample(sound, len(faulty))),
    }
    lines, told = [], {}
    for name, doomed in plans.items():
        plan = Plan(tuple(Repair("delete", row=row) for row in doomed))
        change = planned(plan, run.corpus, classes=False)
        started = time.perf_counter()
        proof = prove(run, plan, change, test, folder / "answers", seeds=options.seeds, show=False)
        told[name] = proof.to_dict() | {"seconds": time.perf_counter() - started}
        print(f"{name}: {sentence(proof)}")
        for arm in proof.arms:
            found = proof.against.get(arm.name)
            change_told = ["", "", ""]
            if found is not None:
                low, high = signed(found.loss.low, "nats"), signed(found.loss.high, "nats")
                told_loss = f"{signed(found.loss.value, 'nats')} ({low} to {high})"
                change_told = [told_loss, f"{found.fixed}, {found.broken}", found.word]
            seeds = ", ".join(f"{loss:.3f}" for loss in arm.loss)
            accuracy = sum(arm.accuracy) / len(arm.accuracy)
            lines.append([name, arm.name, str(arm.rows), seeds, f"{accuracy:.1%}", *change_told])
    columns_told = ["plan", "arm", "rows", "loss a token, by seed", "token accuracy", "repaired less it (95%)",
                    "improved, worsened", "repaired is"]  # fmt: skip
    seconds = ", ".join(f"{each['seconds']:.0f} s" for each in told.values())
    print(f"\n{title}\n{len(rows[: options.rows])} training rows, {len(faulty)} of them faulty; {len(test)} test rows; "
          f"one training {once:.0f} s; the proofs {seconds}\n")  # fmt: skip
    print(table(columns_told, lines))
    print(save("fix_language", {"options": vars(options), "proofs": told, "training_seconds": once}))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--test", type=int, default=80)
    parser.add_argument(
        "--share", type=float, default=0.25, help="of the training rows whose completions change places"
    )
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def spoiled(options: argparse.Namespace) -> tuple[list[dict[str, Any]], set[int]]:
    """Training rows, then test rows; and which of the former got the completion of another one."""
    with gzip.open(data_folder() / "instruct" / "rasbt_simple.jsonl.gz", "rt", encoding="utf-8") as lines:
        read = [json.loads(line) for line in lines]
    generator = random.Random(0)
    chosen = generator.sample(read, options.rows + options.test)
    rows = [{"prompt": FORM.format(**each), "completion": each["output"]} for each in chosen]
    faulty = generator.sample(range(options.rows), round(options.share * options.rows))
    ends = [rows[row]["completion"] for row in faulty]
    for row, end in zip(faulty, [*ends[1:], ends[0]], strict=True):
        rows[row]["completion"] = end
    return rows, set(faulty)


if __name__ == "__main__":
    main()
