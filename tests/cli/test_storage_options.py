"""`headwater index --dtype int8 --energy 0.9`: smaller, says so, and refuses what means nothing."""

import json
from pathlib import Path

import pytest

from cli.conftest import headwater


def test_a_lossy_index_is_smaller_and_its_answers_say_so(made: Path, tmp_path: Path) -> None:
    plain = headwater("index", made / "run", "--out", tmp_path / "plain", "--json").json
    lossy = headwater(
        "index", made / "run", "--out", tmp_path / "lossy", "--dtype", "int8", "--energy", 0.9, "--json"
    ).json
    assert lossy["bytes"] < plain["bytes"]
    manifest = json.loads((tmp_path / "lossy" / "manifest.json").read_text())
    assert (manifest["dtype"], manifest["energy"]) == ("int8", 0.9)
    assert headwater("verify", tmp_path / "lossy").code == 0
    answer = headwater("query", tmp_path / "lossy", "--text", "the heron loves warm bread .", "--json").json
    (warning,) = [each for each in answer["run"]["warnings"] if "approximate" in each]
    assert "int8" in warning and "0.1 of all squared norms" in warning
    refused = headwater("query", tmp_path / "lossy", "--text", "the heron", "--normalize", "train")
    assert "keeps the strongest alone" in refused.error
    again = headwater("index", made / "run", "--out", tmp_path / "lossy", "--dtype", "int8")
    assert "energy=0.9, not None" in again.error


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--energy", "1.5"], "above 0 and below 1"),
        (["--energy", "0"], "above 0 and below 1"),
        (["--method", "tracin", "--energy", "0.9"], "--energy is for methods over token gradients"),
        (["--method", "tracin", "--dtype", "int8"], "--dtype int8 is for token gradients alone"),
    ],
)
def test_options_that_mean_nothing_are_refused(made: Path, tmp_path: Path, options: list[str], named: str) -> None:
    assert named in headwater("index", made / "run", "--out", tmp_path / "index", *options).error
    assert not (tmp_path / "index").exists()
