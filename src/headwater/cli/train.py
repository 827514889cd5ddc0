"""`headwater train`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from headwater.cli.console import answers, duration, print_json
from headwater.cli.options import Given, Json, examples, flags_of, takes
from headwater.cli.places import COLUMN_FLAGS
from headwater.cli.tasks import TASK_FLAGS, read_task
from headwater.models.smollm2 import SMOLLM2
from headwater.runs import Corpus, text_task
from headwater.training.evaluate import evaluate
from headwater.training.predict import predict
from headwater.training.settings import TrainSettings
from headwater.training.train import train as train_run

if TYPE_CHECKING:
    from headwater import Run

_USUAL = ("model", "epochs", "learning_rate", "batch_size", "max_length", "seed", "checkpoints")

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog=examples(
        "headwater train --data train.jsonl --eval test.jsonl --out runs/first",
        "headwater train --data news.csv --text-column title --label-column topic --model textcnn --out runs/news",
        "headwater train --task causal-lm --data chats.jsonl --model smollm2 --lora --out runs/chat",
    )
)
@takes(
    columns=COLUMN_FLAGS,
    tasks=TASK_FLAGS,
    settings=flags_of(TrainSettings, only=_USUAL),
    others=flags_of(TrainSettings, skip=_USUAL, panel="More settings"),
)
def train(
    data: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="Training rows: .jsonl, .csv, .tsv, .parquet, or hub:owner/name.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="New folder for the run.", show_default=False)],
    columns: Given,
    tasks: Given,
    settings: Given,
    others: Given,
    evaluation: Annotated[
        str | None, typer.Option("--eval", metavar="FILE", help="Held-out rows, to say how good the model is.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a classifier or a language model, and record what explaining it will need.

    Fine-tunes with the Hugging Face Trainer, whole or by LoRA, or trains the paper's convnet from scratch.
    RUN then holds the checkpoints, and under headwater/ the corpus, the learning rate of every step and the recipe.
    """
    usual = {"model": SMOLLM2} if tasks.get("task") == "causal-lm" else {}
    chosen = TrainSettings(**{**usual, **settings, **others})
    corpus, task = read_task(data, columns, tasks)
    held_out = None if evaluation is None else Corpus.read(evaluation, corpus.columns)
    started = time.monotonic()
    run = train_run(corpus, task, out, chosen, eval_corpus=held_out)
    facts = _facts(run, out, time.monotonic() - started)
    if as_json:
        print_json(facts)
    else:
        _show(facts)


def _facts(run: Run, out: Path, seconds: float) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "run": str(out),
        "rows": len(run.corpus),
        "task": run.task.kind,
        "labels": run.label2id,
        "max_length": run.task.max_length,
        "checkpoints": [
            {"name": point.name, "step": point.step, "weight": point.weight, "learning_rate": point.learning_rate}
            for point in run.checkpoints
        ],
        "seconds": seconds,
        "eval": None,
    }
    if run.eval_corpus is not None and text_task(run.task) is not None:
        known = evaluate(run.checkpoints[-1].load(), run.tokenizer, run.task, run.eval_corpus)
        facts["eval"] = {"rows": len(known), "loss": known.loss, "perplexity": known.perplexity}
    elif run.eval_corpus is not None:
        found = predict(run.checkpoints[-1].load(), run.tokenizer, run.task, run.eval_corpus, title="evaluating")
        facts["eval"] = {"rows": len(found), "accuracy": found.accuracy, "loss": float(found.losses.mean())}
    return facts


def _show(facts: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("checkpoint")
    for name in ("step", "weight"):
        table.add_column(name, justify="right")
    for point in facts["checkpoints"]:
        table.add_row(point["name"], str(point["step"]), f"{point['weight']:.4g}")
    console = answers()
    console.print(f"Trained on {facts['rows']:,} rows in {duration(facts['seconds'])}.")
    console.print(table)
    if facts["eval"]:
        held = facts["eval"]
        if "accuracy" in held:
            told = f"{held['accuracy']:.1%} of {held['rows']:,} held-out rows are predicted right"
        else:
            told = f"Perplexity {held['perplexity']:.4g} on {held['rows']:,} held-out rows"
        console.print(f"{told}, mean loss {held['loss']:.3f}.")
    console.print(f"Next: headwater index {facts['run']}", markup=False, soft_wrap=True)
