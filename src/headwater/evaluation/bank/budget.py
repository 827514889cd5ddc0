"""What filling a bank will cost, from one retraining of the real thing (which is kept)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from headwater.evaluation.bank.bank import RetrainBank
from headwater.evaluation.bank.fill import Pace, usual_processes


@dataclass(frozen=True)
class Estimate:
    """What a bank still has to do. Two processes are taken to be twice as fast as one."""

    retrainings: int
    """Still missing."""
    subsets: int
    """Not finished."""
    seconds: float
    """For all of them, without the seconds that processes need to start."""
    seconds_each: float
    """Of one retraining of the usual size."""
    bytes: int
    """Still to be written."""
    processes: int

    def affordable(self, seconds: float) -> int:
        """How many subsets can be finished in so much time."""
        if self.seconds <= seconds:
            return self.subsets
        return int(self.subsets * (seconds / self.seconds))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def estimate(bank: RetrainBank, *, processes: int | None = None, show: bool | None = None) -> Estimate:
    """Estimate what `bank.fill(processes=...)` takes. A bank without any retraining does one first, to time it.

    Raises what `fill` raises.
    """
    if bank.missing() and Pace.of(bank).seconds_a_row is None:
        bank.fill(most=1, processes=1, show=show)
    missing = bank.missing()
    if processes is None:
        processes = usual_processes(bank, bank.run) if bank.run is not None else 1
    seconds = Pace.of(bank).seconds(bank, missing) or 0.0
    written = [path.stat().st_size for path in (bank.folder / "retrains").glob("*.safetensors")]
    return Estimate(
        retrainings=len(missing),
        subsets=len({number for number, _ in missing}),
        seconds=seconds / max(1, min(processes, len(missing))),
        seconds_each=seconds / len(missing) if missing else 0.0,
        bytes=round(len(missing) * sum(written) / len(written)) if written else 0,
        processes=processes,
    )
