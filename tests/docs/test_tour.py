"""The tour of the documentation runs from the first cell to the last, and shows what it promises."""

import importlib.util
from pathlib import Path
from typing import Any

import nbformat

DOCS = Path(__file__).parents[2] / "docs"


def runner() -> Any:
    spec = importlib.util.spec_from_file_location("run_tour", DOCS / "run_tour.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tour_runs_and_shows_what_it_promises(tmp_path: Path) -> None:
    done = runner().executed(str(tmp_path))
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    assert not any(output.output_type == "error" for output in outputs)
    told = "\n".join("".join(output.get("data", {}).get("text/html", output.get("text", ""))) for output in outputs)
    assert "checkpoint-" in told and "miller" in told  # the run, the answer
    assert "tracin-we" in told and "<th>lds</th>" in told  # the grades, as a table
    found = next(line for line in told.splitlines() if "wrong labels are among" in line)
    assert int(found.split()[0]) >= 10
    accuracy = [float(line.split()[-1]) for line in told.splitlines() if line.startswith(("as it was", "repaired"))]
    assert len(accuracy) == 2 and accuracy[1] >= accuracy[0]


def test_what_is_stored_was_run_and_names_no_folder_of_its_maker() -> None:
    stored = nbformat.read(DOCS / "tour.ipynb", as_version=4)
    nbformat.validate(stored)
    assert all(cell.outputs for cell in stored.cells if cell.cell_type == "code")
    assert "/tmp/" not in (DOCS / "tour.ipynb").read_text(encoding="utf-8")
