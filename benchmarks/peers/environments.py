"""A virtual environment for each library, made once under benchmarks/.work and kept."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

TORCH = "torch==2.13.0"  # first and pinned: looser demands bring other builds, with gigabytes of CUDA
COMMON = ["transformers==5.23.0", "safetensors==0.8.0", "numpy==2.4.6"]
PACKAGES = {
    "captum": ["captum==0.9.0"],
    "dattri-llm": ["dattri-llm==0.1.0", "scipy==1.17.1", "pyyaml==6.0.3"],
    "sdi": ["step-decomposed-influence==0.1.1"],
    "bergson": [
        *["accelerate==1.15.0", "datasets==5.2.0", "jaxtyping==0.3.11", "ml_dtypes==0.6.0", "natsort==8.4.0"],
        *["scipy==1.17.1", "peft==0.21.2", "petname==2.9", "pyarrow==26.0.1", "simple-parsing==0.1.9"],
        *["torchopt==0.7.3", "bitsandbytes==0.50.2", "pandas==3.1.1"],
    ],
    "kronfluence": ["accelerate==1.15.0", "datasets==5.2.0", "einconv==0.1.0", "einops==0.8.2", "opt_einsum==3.4.0"],
    "trak": ["traker==0.3.2"],
}
ALONE = {"dattri-llm": ["dattri==0.3.0"], "bergson": ["bergson==2.5.1"], "kronfluence": ["kronfluence==1.0.1"]}
"""Installed without what they demand: torchaudio, torchvision, and MIDI (dattri, with which dattri-LLM projects)."""
UNWANTED = ["torchaudio", "torchvision"]  # beside another torch, these break `import transformers`


def environment(work: Path, name: str) -> Path:
    """The Python of the environment `name`; made when it is not there, or is of other packages."""
    folder = work / f"env-{name}"
    marker = folder / "packages.json"
    alone = ALONE.get(name, [])
    wanted = [TORCH, *COMMON, *PACKAGES[name], *alone]
    python = folder / "bin" / "python"
    if marker.exists() and json.loads(marker.read_text()) == wanted:
        return python
    print(f"making the environment of {name} (once) ...", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "install", TORCH])
    _run([*pip, "install", TORCH, *COMMON, *PACKAGES[name]])
    if alone:
        _run([*pip, "install", "--no-deps", *alone])
    _run([*pip, "uninstall", "--yes", *UNWANTED])
    _run([str(python), "-c", "import torch, transformers"])
    marker.write_text(json.dumps(wanted))
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
