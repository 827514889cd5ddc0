"""A process that retrains what it is asked to: see `workers`.

stdin:   {"run": folder, "bank": folder}, then {"subset": number, "seed": seed} for each retraining
stdout:  {"bytes": n, "seconds": s} and n bytes, the file of the retraining; or {"error": sentence}
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import IO, Any

from headwater.errors import HeadwaterError
from headwater.evaluation.bank.bank import RetrainBank
from headwater.runs.run import Run


def main() -> None:
    """Serve until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; who asked ends us
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever libraries print is no answer
    try:
        _serve(sys.stdin.buffer, answers)
    except HeadwaterError as error:
        _tell(answers, {"error": str(error)})
    except BrokenPipeError:
        os._exit(0)


def _serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    places = json.loads(questions.readline())
    bank = RetrainBank.open(Path(places["bank"]), Run.open(places["run"]))
    retrainer = bank.retrainer()
    for line in questions:
        asked = json.loads(line)
        content, seconds = bank.retrained(retrainer, (asked["subset"], asked["seed"]))
        _tell(answers, {"bytes": len(content), "seconds": seconds}, content)


def _tell(answers: IO[bytes], header: dict[str, Any], content: bytes = b"") -> None:
    answers.write(json.dumps(header).encode() + b"\n" + content)
    answers.flush()


if __name__ == "__main__":
    main()
