"""The command line: it parses, calls and prints, and computes nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main() -> None:
    """Run the command `headwater`. Exit code 0: done; 1: failed; 2: bad usage; 130: interrupted."""
    set_environment(sys.argv[1:])
    from headwater.cli.app import app

    app(prog_name="headwater")


def set_environment(arguments: Sequence[str]) -> None:
    """Set what torch and transformers read when they are imported; what the user has set stays.

    Idle threads sleep instead of spinning, which slows whatever shares the cores. No network, unless the user names
    something on the Hugging Face hub.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if not any(part.startswith("hub:") for argument in arguments for part in (argument, argument.partition("=")[2])):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
