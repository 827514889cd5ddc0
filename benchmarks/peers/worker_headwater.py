"""Headwater: index the run, then ask. It alone is given texts, so its seconds hold the tokenising too.

`--mode` is the dtype of the index. The phase "again" is scoring alone, the queries' gradients in hand.
"""

import json

import numpy as np
from common import Job, job
from transformers import BertForSequenceClassification  # noqa: F401  (slow to import: so that it counts as import)

from headwater import Classification, Corpus, Index, Run

AGAIN = 5  # times the scoring alone is repeated; the mean is told, as it takes milliseconds


def attribute(measured: Job) -> np.ndarray:
    setting = measured.setting
    numbers = json.loads((setting / "setting.json").read_text())
    checkpoints = [(setting / f"checkpoint-{at + 1}", weight) for at, weight in enumerate(numbers["weights"])]
    with measured.phase("run"):
        run = Run.create(
            measured.out / "run",
            checkpoints=checkpoints,
            corpus=Corpus.read(setting / "corpus.jsonl"),
            task=Classification(max_length=numbers["tokens"]),
        )
    with measured.phase("build"):
        index = Index.build(run, dtype=measured.mode)
    lines = (setting / "queries.jsonl").read_text().splitlines()[: measured.queries]
    asked = [json.loads(line) for line in lines]
    texts, labels = [row["text"] for row in asked], [row["label"] for row in asked]
    with measured.phase("ask"):
        scores = index.scores(texts, labels)
    # The public call does both halves; here the second is timed without the first.
    question, scorer = index._ask(Corpus.read(asked), labels, "tracin-we", {}, 1)
    with measured.phase("again"):
        for _ in range(AGAIN):
            index._score(question, scorer)
    measured.phases["again"] = {clock: seconds / AGAIN for clock, seconds in measured.phases["again"].items()}
    return scores


def main() -> None:
    with job() as measured:
        scores = attribute(measured)
        measured.finish(scores, packages=["headwater", "torch", "transformers"])


if __name__ == "__main__":
    main()
