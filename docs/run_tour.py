"""Run the tour, docs/tour.ipynb, anew and keep what its cells show: `python docs/run_tour.py`."""

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PLACE = Path(__file__).parent / "tour.ipynb"


def executed(folder: str) -> nbformat.NotebookNode:
    """Run it in `folder`; raises where a cell does."""
    os.environ |= {"HEADWATER_QUIET": "1", "PYTHONWARNINGS": "ignore"}
    made = nbformat.read(PLACE, as_version=4)
    return NotebookClient(made, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()


def main() -> None:
    """Run it and write it, without times and the name of the folder it ran in."""
    with tempfile.TemporaryDirectory() as folder:
        done = executed(folder)
        for cell in done.cells:
            cell.metadata.pop("execution", None)
        text = nbformat.writes(done).replace(f"{folder}/", "")
    PLACE.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
