"""Quality against cost: Headwater's methods and other libraries, graded on one bank of retrainings of MiniLM.

MiniLM is fine-tuned on a few hundred rows of AG News. kronfluence (EK-FAC), Captum (TracInCPFast), TRAK (traker) and
dattri-LLM (EK-FAC) score the same rows for the same queries, each in a process and an environment of its own; their
matrices [queries, rows] are graded by `headwater.evaluate` beside our methods, the lexical baselines and random scores:
LDS on random halves of the rows, two retrainings each, with its noise ceiling; and hubness ("distinct": different rows
in the top lists, as a part of those in as many random lists).

Everybody gets the same texts as the same tokens. What each method reads of the run is its own affair and stands in the
table: "all" checkpoints, weighted by learning rates where the method does so, or the "last". Seconds are those of
indexing and scoring, models loaded, imports left out, one thread; of ours, methods that read the same stored set are
each told the whole of building it.

    python benchmarks/quality.py [--rows 300] [--queries 30] [--subsets 30] [--epochs 2] [--peers NAME ...] [--quick]

Run, scores, retrainings, table and plot stay under benchmarks/.work/quality, and are used again; `--fresh` begins anew.
Only what was scored on one day on one machine can be compared in seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peers.environments import environment
from report import WORK, heading, quiet_environment, save, table, use_threads

if TYPE_CHECKING:
    from headwater import Corpus, Evaluation, Run

HERE = Path(__file__).resolve().parent
MAX_LENGTH, BATCH, RATE, CHECKPOINTS, SEEDS = 32, 16, 1e-4, 2, 2
MOST_RETRAINS = 60


@dataclass(frozen=True)
class Peer:
    """Another library: its worker `peers/quality_WORKER.py`, and whose environment that needs."""

    worker: str
    environment: str
    mode: str = ""


PEERS = {
    "kronfluence-ekfac": Peer("kronfluence", "kronfluence"),
    "captum-tracincpfast": Peer("captum", "captum"),
    "traker": Peer("trak", "trak"),
    "dattri-llm-ekfac": Peer("dattri_llm", "dattri-llm"),
}
OURS = (
    *("tracin-we", "tracin-we/normalize=both", "tracin-last", "tracin-all", "gradient-cosine", "trackstar", "trak"),
    *("logra", "datainf", "less", "representer", "influence-last"),
)
OF_THE_LAST = ("trak", "logra")
"""Graded with the last checkpoint alone too, which is what the peers of their kind read."""
LAST_ALONE = ("representer", "influence-last")
LEXICAL = ("bm25-label", "tfidf-label")
ALIKE = {
    "captum-tracincpfast": "tracin-last",
    "kronfluence-ekfac": "logra",
    "traker": "trak",
    "dattri-llm-ekfac": "logra",
}
"""Whose scores should look like whose: a check that everybody was given the same rows, and of the sign."""


@dataclass(frozen=True)
class Theirs:
    """A peer's scores, and what they cost."""

    path: Path
    seconds: float
    weights: str
    versions: dict[str, str]


def main() -> None:
    options = parse()
    use_threads(1)
    title = heading("Quality against cost")
    folder = WORK / "quality" / f"ag_news-{options.rows}-{options.epochs:g}-{options.queries}"
    if options.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    run, queries = make_run(folder, options.rows, options.queries, options.epochs)
    accuracy = make_setting(folder, run, queries)
    theirs, problems = peer_scores(folder, options.peers, len(queries), options.limit)
    told("grading: our methods, then the retrainings")
    made = grade(folder, run, queries, theirs, options)
    versions = {name: version for peer in theirs.values() for name, version in peer.versions.items()}
    print(f"{title}\npeers: " + ", ".join(f"{name} {versions[name]}" for name in sorted(versions)))
    print(told_of(options, run, accuracy, made), "\n")
    lines = lines_of(made, theirs)
    print(describe(lines), *remarks(made, lines, problems, folder, theirs), sep="\n")
    print(save("quality-quick" if options.quick else "quality", {"lines": lines, "evaluation": made.to_dict()}))
    print(plot(folder / "quality.svg", made, lines))
    if problems:
        raise SystemExit(f"failed (see above): {', '.join(problems)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, help="training rows of AG News (default 300)")
    parser.add_argument("--queries", type=int, help="test rows of AG News (default 30)")
    parser.add_argument("--subsets", type=int, help=f"random halves, each retrained {SEEDS} times (default 30)")
    parser.add_argument("--epochs", type=float, help="passes over the rows (default 2)")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS), metavar="NAME")
    parser.add_argument("--processes", type=int, default=2, help="that retrain")
    parser.add_argument("--limit", type=float, default=900, help="seconds after which a peer is given up")
    parser.add_argument("--fresh", action="store_true", help="throw away what an earlier call made")
    parser.add_argument("--quick", action="store_true", help="24 rows, 4 queries, 3 subsets: does all of it run?")
    options = parser.parse_args()
    small = {"rows": 24, "queries": 4, "subsets": 3, "epochs": 1.0}
    for name, usual in {"rows": 300, "queries": 30, "subsets": 30, "epochs": 2.0}.items():
        if getattr(options, name) is None:
            setattr(options, name, small[name] if options.quick else usual)
    if options.subsets * SEEDS > MOST_RETRAINS:
        parser.error(f"--subsets: at most {MOST_RETRAINS // SEEDS}, for {MOST_RETRAINS} retrainings")
    return options


def told_of(options: argparse.Namespace, run: Run, accuracy: float, made: Evaluation) -> str:
    """What was trained and retrained, in words."""
    training = f"{options.epochs:g} epochs, batches of {BATCH}, rate {RATE:g}, {len(run.checkpoints)} checkpoints"
    return (
        f"MiniLM, {options.rows} rows of AG News cut to {MAX_LENGTH} tokens, {training}; "
        f"accuracy {accuracy:.3f} on {made.queries} queries\n"
        f"{made.column('lds').protocol}; {made.retrains} retrainings of {made.retrain_seconds or math.nan:.0f} s each"
    )


def told(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what} ...", file=sys.stderr, flush=True)


def make_run(folder: Path, rows: int, count: int, epochs: float) -> tuple[Run, Corpus]:
    """The fine-tuned run, and the queries as the file that a user would hand over; made once."""
    from headwater import Classification, Corpus, Run
    from headwater.training import TrainSettings, train
    from workloads import ag_news, ag_news_test

    place, asked = folder / "run", folder / "queries.jsonl"
    if not asked.exists():
        told(f"training MiniLM on {rows} rows")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        settings = TrainSettings(
            epochs=epochs, learning_rate=RATE, batch_size=BATCH, checkpoints=CHECKPOINTS, device="cpu"
        )
        corpus = Corpus.read(ag_news(rows), name="ag_news")
        train(corpus, Classification(max_length=MAX_LENGTH), place, settings, show=False)
        asked.write_text("".join(json.dumps(example) + "\n" for example in ag_news_test(count)))
    return Run.open(place), Corpus.read(asked)


def make_setting(folder: Path, run: Run, queries: Corpus) -> float:
    """Write rows, queries and checkpoints as files that any library reads; returns the accuracy on the queries."""
    from headwater.runs.task import corpus_targets
    from headwater.training import predict

    examples = [*run.corpus, *queries]
    batch = run.task.collate(run.task.encode(run.tokenizer, examples), run.tokenizer)
    labels = [*run.targets, *corpus_targets(run.task, queries, run.checkpoints[-1].config)]
    np.savez(
        folder / "arrays.npz",
        input_ids=batch["input_ids"].numpy(),
        attention_mask=batch["attention_mask"].numpy(),
        labels=np.array(labels, dtype=np.int64),
    )
    for number, checkpoint in enumerate(run.checkpoints):
        link = folder / f"checkpoint-{number + 1}"
        if not link.exists():
            link.symlink_to(checkpoint.path.resolve())
    facts = {"rows": len(run.corpus), "weights": [checkpoint.weight for checkpoint in run.checkpoints]}
    (folder / "setting.json").write_text(json.dumps(facts))
    found = predict(run.checkpoints[-1].load(), run.tokenizer, run.task, queries)
    return float(np.mean(found.correct))


def peer_scores(folder: Path, names: list[str], queries: int, limit: float) -> tuple[dict[str, Theirs], dict[str, str]]:
    """Let each peer score, one after the other; what failed, and how, by name."""
    found: dict[str, Theirs] = {}
    problems: dict[str, str] = {}
    for name in names:
        out = folder / "peers" / name
        if not (out / "result.json").exists():
            told(name)
            shutil.rmtree(out, ignore_errors=True)
            if problem := run_peer(PEERS[name], folder, out, queries, limit):
                print(f"{name}: FAILED\n{problem}", file=sys.stderr, flush=True)
                problems[name] = problem
                continue
        told_by = json.loads((out / "result.json").read_text())
        seconds = sum(phase["wall"] for part, phase in told_by["phases"].items() if part != "import")
        found[name] = Theirs(out / "scores.npy", seconds, told_by["notes"]["weights"], told_by["versions"])
    return found, problems


def run_peer(peer: Peer, folder: Path, out: Path, queries: int, limit: float) -> str:
    """One process; returns the end of what it complained of if it failed, else nothing."""
    python = environment(WORK, peer.environment)
    script = HERE / "peers" / f"quality_{peer.worker}.py"
    given = {"--setting": folder, "--out": out, "--queries": queries, "--mode": peer.mode}
    command = [str(python), str(script), *[str(part) for pair in given.items() for part in pair]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=quiet_environment(1), timeout=limit)
    except subprocess.TimeoutExpired:
        return f"not done after {limit:.0f} s"
    return "" if done.returncode == 0 else done.stderr.strip()[-2500:]


def grade(
    folder: Path, run: Run, queries: Corpus, theirs: dict[str, Theirs], options: argparse.Namespace
) -> Evaluation:
    """All of them on the same retrainings and the same queries."""
    import headwater as hw

    last = run.checkpoints[-1].name
    return hw.evaluate(
        run,
        [*OURS, *(f"{name}/checkpoints={last}" for name in OF_THE_LAST)],
        ["lds", "hubness"],
        queries,
        out=folder / "graded",
        scores={name: peer.path for name, peer in theirs.items()},
        subsets=options.subsets,
        seeds=SEEDS,
        retrains=MOST_RETRAINS,
        processes=options.processes,
        show=False,
    )


def lines_of(made: Evaluation, theirs: dict[str, Theirs]) -> list[dict[str, Any]]:
    """What the table and the plot show, the best LDS first."""
    lines = []
    for name in made.methods:
        lds, corrected, distinct = (made.cell(metric, name) for metric in ("lds", "lds corrected", "distinct rows"))
        cost = made.cost(name)
        seconds = (
            theirs[name].seconds if name in theirs else float(cost.index_seconds or 0) + float(cost.score_seconds or 0)
        )
        lines.append(
            {
                "method": name,
                "whose": "peer" if name in theirs else "baseline" if name in (*LEXICAL, "random") else "ours",
                "reads": theirs[name].weights if name in theirs else reads(name),
                "lds": [lds.value, lds.low, lds.high],
                "corrected": corrected.value,
                "distinct": distinct.value,
                "seconds": seconds,
                "score_seconds": cost.score_seconds,
                "bytes": cost.bytes,
            }
        )
    return sorted(lines, key=lambda line: -line["lds"][0])


def reads(name: str) -> str:
    """What one of ours reads, in words."""
    from headwater.evaluation.candidates import Candidate
    from headwater.methods import get_method

    method = get_method(str(Candidate.parse(name).method))
    if method.need == "texts":
        return "texts"
    part = {"tokens": "word embeddings", "representations": "last layer"}.get(method.need, f"layers: {method.layers}")
    return f"{part}, {'last' if '/checkpoints=' in name or name in LAST_ALONE else 'all'}"


def describe(lines: list[dict[str, Any]]) -> str:
    rows = []
    for line in lines:
        value, low, high = line["lds"]
        rows.append(
            [
                f"{line['method']}{'' if line['whose'] == 'ours' else ' (' + line['whose'] + ')'}",
                f"{value:.3f} [{low:.3f}, {high:.3f}]",
                f"{line['corrected']:.3f}",
                f"{line['distinct']:.2f}",
                f"{line['seconds']:.1f}",
                "-" if line["score_seconds"] is None else f"{line['score_seconds']:.1f}",
                "-" if line["bytes"] is None else f"{line['bytes'] / 1e6:.1f}",
                line["reads"],
            ]
        )
    return table(["method", "LDS [95%]", "of ceiling", "distinct", "s", "scoring s", "MB", "reads"], rows)


def remarks(
    made: Evaluation, lines: list[dict[str, Any]], problems: dict[str, str], folder: Path, theirs: dict[str, Theirs]
) -> list[str]:
    """Ceiling, who is ahead of our best, whether scores that should agree do, and what failed."""
    limit = made.column("lds").ceiling or {}
    answers = ["", f"ceiling: {json.dumps(limit)}"]
    best = next(line for line in lines if line["whose"] == "ours")
    ahead = [f"{line['method']} ({line['whose']})" for line in lines[: lines.index(best)]]
    answers.append(f"our best: {best['method']}, LDS {best['lds'][0]:.3f}; ahead of it: {', '.join(ahead) or 'nobody'}")
    for name, ours in ALIKE.items():
        if name in theirs:
            scores = np.load(folder / "graded" / "scores" / f"{ours}.npy")
            answers.append(f"rank correlation of {name} with our {ours}, mean over queries: "
                           f"{agreement(np.load(theirs[name].path), scores):.3f}")  # fmt: skip
    return [*answers, *(f"{name} failed: {problem.splitlines()[-1]}" for name, problem in problems.items())]


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Mean over queries of Spearman's correlation over rows."""
    from scipy.stats import spearmanr

    return float(np.mean([spearmanr(left, right).statistic for left, right in zip(one, other, strict=True)]))


def plot(path: Path, made: Evaluation, lines: list[dict[str, Any]]) -> Path:
    """LDS with its interval against seconds, and the ceiling."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "quality"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    for whose, color, marker in (("ours", "tab:blue", "o"), ("peer", "tab:red", "s"), ("baseline", "gray", "^")):
        some = [line for line in lines if line["whose"] == whose]
        if not some:
            continue
        x, y = [line["seconds"] for line in some], np.array([line["lds"][0] for line in some])
        sides = np.array([[line["lds"][0] - line["lds"][1], line["lds"][2] - line["lds"][0]] for line in some]).T
        axes.errorbar(x, y, yerr=np.abs(sides), fmt=marker, color=color, label=whose, capsize=2, linewidth=0.8)
        for line in some:
            place = (line["seconds"], line["lds"][0])
            left = line["seconds"] > 0.2 * max(each["seconds"] for each in lines)  # else it leaves the picture
            name, shift = line["method"].replace("checkpoints=checkpoint-", "step "), (-5, -9) if left else (5, 4)
            axes.annotate(
                name, place, xytext=shift, textcoords="offset points", fontsize=7, ha="right" if left else "left"
            )
    highest = (made.column("lds").ceiling or {}).get("highest")
    if highest is not None:
        axes.axhline(highest, color="black", linestyle="--", linewidth=0.8, label="noise ceiling")
    axes.axhline(0, color="black", linewidth=0.4)
    axes.set(xscale="log", xlabel="seconds: index and scores of all queries", ylabel="LDS")
    axes.legend()
    figure.savefig(path)
    pyplot.close(figure)
    return path


if __name__ == "__main__":
    main()
