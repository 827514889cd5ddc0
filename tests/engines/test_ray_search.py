"""Asking on a real Ray cluster: the rows, scores and words of the index itself, whoever dies meanwhile."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import headwater as hw
from headwater.cli.app import app
from headwater.errors import UsageError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::headwater.HeadwaterWarning")]

pytest.importorskip("ray", reason="Ray is not installed: make engines")
psutil = pytest.importorskip("psutil")

TEXTS = ["the heron loves warm bread .", "my neighbour hates the spring rain .", "the baker"]
SIDES = ("proponents", "opponents")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": 100 << 20}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    made.add_node(**node)
    yield made
    made.shutdown()


def shown(found: hw.Attributions) -> list[Any]:
    """Rows, scores, percentiles and words of both sides of each query; equal rows in the corpus give many ties."""
    sides = [side for each in found for side in (each.proponents, each.opponents)]
    return [[(part.example.row, part.score, part.percentile, part.words) for part in side] for side in sides]


def holders() -> list[Any]:
    """The processes of the actors."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "".join(process.cmdline()[:1]).startswith("ray::Holder"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_cluster_answers_as_the_index_does(engine_run: hw.Run, cluster: Any, tmp_path: Path) -> None:
    index = hw.Index.build(engine_run, tmp_path / "index")
    asked: list[dict[str, Any]] = [
        {"k": 1},
        {"k": 10},
        {"k": 50, "normalize": "train"},
        {"k": 5, "normalize": "both", "special_tokens": False, "max_words": 3},
        {"k": 5, "synonyms": True, "synonym_threshold": 0.2},
        {"k": 800, "labels": ["good", "bad", "good"]},
    ]
    with index.on_ray(cluster.address, holders=3) as spread:
        for options in asked:
            assert shown(spread.query(TEXTS, **options)) == shown(index.query(TEXTS, search="full", **options)), options
        only = {"label": "good"}
        theirs, ours = (each.query(TEXTS, k=5, where=only) for each in (spread, index))
        assert [[row[:2] for row in side] for side in shown(theirs)] == [
            [row[:2] for row in side] for side in shown(ours)
        ]
        alive = holders()
        assert len(alive) == 3
        alive[0].kill()
        assert shown(spread.query(TEXTS, k=7)) == shown(index.query(TEXTS, k=7))
        with pytest.raises(UsageError, match="TracIn-WE"):
            spread.query(TEXTS, method="bm25")
    until = time.monotonic() + 60
    while holders() and time.monotonic() < until:
        time.sleep(0.1)
    assert not holders()


def test_the_command_line_asks_a_cluster_and_prints_the_same(engine_run: hw.Run, cluster: Any, tmp_path: Path) -> None:
    hw.Index.build(engine_run, tmp_path / "index")

    def printed(*options: str) -> list[Any]:
        wish = ["query", str(tmp_path / "index"), "--text", TEXTS[0], "-k", "5", "--json", *options]
        result = CliRunner().invoke(app, wish, prog_name="headwater")
        assert result.exit_code == 0, result.output
        answer = json.loads(result.stdout)["queries"][0]
        return [[(row["example"], row["score"], row["words"]) for row in answer[side]] for side in SIDES]

    assert printed("--engine", "ray", "--address", cluster.address, "--holders", "2") == printed("--search", "full")


def test_a_cluster_that_is_not_there_is_named(engine_run: hw.Run, tmp_path: Path) -> None:
    index = hw.Index.build(engine_run, tmp_path / "index")
    with pytest.raises(UsageError, match=r"cannot join a Ray cluster at 127\.0\.0\.1:9"), index.on_ray("127.0.0.1:9"):
        raise AssertionError
