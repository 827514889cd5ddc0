"""Methods on the command line: listed, built for, asked, put together over queries; and options that are not theirs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import builders
import headwater as hw
from cli.conftest import headwater, write_rows
from headwater.gradients.layers import Projector
from headwater.methods import Method, all_methods

TEXT = "the heron loves long winters ."


@pytest.fixture(scope="module")
def run(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, without its index."""
    folder = tmp_path_factory.mktemp("methods") / "run"
    shutil.copytree(made / "run", folder, ignore=shutil.ignore_patterns("index"))
    return folder


@pytest.fixture(scope="module")
def built(run: Path) -> Path:
    """The run with what all methods but those of token gradients need, in an index of its own."""
    out = run.parent / "layers-index"
    names = ("tracin-last", "representer", "tracin", "logra")
    called = headwater("index", run, "--out", out, *(part for name in names for part in ("--method", name)))
    assert called.code == 0, called.stderr
    return out


def test_every_method_is_listed_with_its_paper() -> None:
    listed = headwater("methods").stdout
    assert max(map(len, listed.splitlines())) <= 100
    for method in all_methods():
        assert method.name in listed
    for number in ("2202.11844", "2405.13954", "1811.09720"):
        assert number in listed


@pytest.mark.parametrize("method", all_methods(), ids=lambda method: method.name)
def test_a_methods_page_has_its_equation_and_options(method: Method) -> None:
    name = method.name
    page, facts = headwater("methods", name).stdout, headwater("methods", name, "--json").json
    assert facts["name"] == name and "=" in facts["equation"]
    assert all(line in page for line in facts["equation"].splitlines() if line.startswith("    "))
    assert all(option["flag"] in page for option in facts["options"])
    assert facts in headwater("methods", "--json").json["methods"]


def test_an_unknown_method_has_no_page() -> None:
    assert "Did you mean 'logra'" in headwater("methods", "lograh").error


def test_options_of_another_method_are_bad_usage(run: Path, tmp_path: Path) -> None:
    for options, said in (
        (("--method", "bm25", "--max-words", 3), "bm25 has no option --max-words. It has: --k1, --b."),
        (("--method", "logra", "--no-special-tokens"), "logra has no option --special-tokens. It has: "),
        (("--method", "tracin-we", "--layers", "last"), "tracin-we has no option --layers"),
        (("--method", "less", "--seed", 3), "less has no option --seed"),
    ):
        called = headwater("query", run, "--text", TEXT, *options)
        assert called.code == 2 and said in called.error
    for options, said in (
        (("--method", "bm25", "--layers", "last"), "--layers is for methods over gradients of layers; bm25: not such"),
        (("--projection-seed", 3), "--projection-seed is for methods over gradients of layers"),
        (("--method", "tracin", "--max-words", 3), "--max-words is for methods over token gradients"),
        (("--method", "tracin", "--dim", 0), "a projection has 1 dimension at least"),
        (("--method", "tracin", "--layers", "attention"), "no layer is named 'attention'"),
    ):
        called = headwater("index", run, "--out", tmp_path / "index", *options)
        assert called.code == 2 and said in called.error and not (tmp_path / "index").exists()


def test_methods_over_texts_need_no_index(run: Path, made: Path, tmp_path: Path) -> None:
    (query,) = headwater("query", run, "--text", TEXT, "--method", "bm25", "--json").json["queries"]
    rows = [json.loads(line)["text"] for line in (made / "train.jsonl").read_text().splitlines()]
    best = query["proponents"][0]
    assert best["text"] == rows[best["example"]] and {"heron", "loves", "winters"} & set(best["text"].split())
    told = headwater("index", run, "--method", "bm25", "--json").json
    assert told["built"] == [] and told["nothing_to_build"] == ["bm25"] and not (run / "index").exists()
    (same,) = headwater("query", made / "run", "--text", TEXT, "--method", "bm25", "--json").json["queries"]
    assert same == query


def test_what_is_not_built_names_the_command_that_builds_it(run: Path, built: Path, made: Path) -> None:
    called = headwater("query", run, "--text", TEXT, "--method", "tracin", "--layers", "conv*")
    assert called.code == 1 and f"headwater index {run} --method tracin --layers 'conv*'" in called.error
    called = headwater("query", made / "run", "--text", TEXT, "--method", "logra")
    assert called.code == 1 and "--method logra" in called.error
    called = headwater("query", built, "--text", TEXT)
    assert called.code == 1 and "token gradients, which are not indexed here" in called.error


def test_one_command_builds_for_several_methods(run: Path, tmp_path: Path) -> None:
    command = ("index", run, "--out", tmp_path / "index", "--json", "--checkpoints", "last")
    names = ("tracin", "representer", "logra", "tracin-we", "random")
    told = headwater(*command, *(part for name in names for part in ("--method", name))).json
    assert [build["methods"] for build in told["built"]] == [["tracin", "logra"], ["representer"], ["tracin-we"]]
    layers, features, _ = told["built"]
    assert layers["scale"] == "none" and layers["left_out"] == ""
    assert layers["layers"] == ["embedding", "convolution1", "convolution2", "convolution3", "classifier"]
    for build, column in ((layers, "layers/all-*"), (features, "representations")):
        (file,) = (tmp_path / "index").glob(f"{column}/segments/*/*.safetensors")
        assert build["row_bytes"] * 60 < file.stat().st_size < build["row_bytes"] * 60 + 2000
    assert told["bytes"] == sum(build["bytes"] for build in told["built"])
    again = headwater(*command, "--method", "tracin", "--dim", 4).json
    assert again["built"][0]["numbers"] < layers["numbers"] and again["bytes"] > told["bytes"]


def test_projection_options_reach_the_index(run: Path, tmp_path: Path) -> None:
    options = ("--dim", 4, "--projection-seed", 7, "--projection", "gaussian", "--exact-below", 200)
    command = ("index", run, "--method", "tracin", "--layers", "conv*,classifier", "--dtype", "float32")
    assert headwater(*command, "--out", tmp_path / "one", *options).code == 0
    hw.Index.build(
        hw.Run.open(run),
        tmp_path / "two",
        method="tracin",
        layers="conv*,classifier",
        projector=Projector(4, 7, "gaussian", 200),
        dtype="float32",
    )
    one, two = ((tmp_path / name).rglob("*.safetensors") for name in ("one", "two"))
    files = {path.relative_to(tmp_path / "one"): path.read_bytes() for path in one}
    assert files and files == {path.relative_to(tmp_path / "two"): path.read_bytes() for path in two}


def test_a_full_disk_is_refused_before_anything_is_computed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headwater.attribution import estimate

    monkeypatch.setattr(estimate, "free_disk", lambda folder: 50_000)
    called = headwater("index", run, "--method", "tracin", "--out", tmp_path / "index")
    assert called.code == 1 and "a smaller --dim" in called.error and not (tmp_path / "index").exists()


@pytest.mark.parametrize("method", ["logra", "tracin-last", "representer"])
def test_a_query_by_any_method_is_that_of_python(method: str, built: Path) -> None:
    (query,) = headwater("query", built, "--text", TEXT, "--label", "bad", "--method", method, "-k", 4, "--json").json[
        "queries"
    ]
    found = hw.Index.open(built).query([TEXT], ["bad"], k=4, method=method)[0]
    assert [row["example"] for row in query["proponents"]] == [part.example.row for part in found.proponents]
    assert [row["score"] for row in query["opponents"]] == [part.score for part in found.opponents]


def test_options_of_a_method_change_its_scores(built: Path, made: Path, tmp_path: Path) -> None:
    scores = {}
    for name, options in {"plain": (), "damped": ("--damping", 10), "one": ("--layers", "classifier")}.items():
        out = tmp_path / f"{name}.npy"
        asked = ("scores", built, "--queries", made / "test.jsonl", "--method", "logra", "--out", out)
        assert headwater(*asked, *options).code == 0
        scores[name] = np.load(out)
    assert not np.allclose(scores["plain"], scores["damped"]) and not np.allclose(scores["plain"], scores["one"])


def test_one_number_a_row(built: Path, made: Path, tmp_path: Path) -> None:
    asked = ("scores", built, "--queries", made / "test.jsonl", "--method", "tracin")
    assert headwater(*asked, "--out", tmp_path / "all.npy").code == 0
    every = np.load(tmp_path / "all.npy").astype(np.float64)
    ranks = every.argsort(axis=1).argsort(axis=1)
    for how, options, expected in (
        ("mean", (), every.mean(axis=0)),
        ("rank", (), ranks.mean(axis=0)),
        ("vote", ("--share", 0.1), -np.maximum(6 - ranks, 0).sum(axis=0)),
    ):
        out = tmp_path / f"{how}.npy"
        called = headwater(*asked, "--aggregate", how, *options, "--out", out)
        assert "stand lowest harm these queries most" in called.stdout
        found = np.load(out)
        assert found.dtype == np.float64 and found.shape == (60,)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)
    told = headwater(
        *asked, "--aggregate", "rank", "--over", "layers,checkpoints", "--out", tmp_path / "o.npy", "--json"
    )
    assert told.json["aggregate"] == {"how": "rank", "over": ["layers", "checkpoints"]}
    apart = hw.Index.open(built).aggregate(
        hw.Corpus.read(made / "test.jsonl", hw.Columns(label=None)),
        [json.loads(line)["label"] for line in (made / "test.jsonl").read_text().splitlines()],
        how="rank",
        over=("layers", "checkpoints"),
        method="tracin",
    )
    assert np.array_equal(np.load(tmp_path / "o.npy"), apart) and not np.allclose(apart, ranks.mean(axis=0))


def test_putting_scores_together_takes_options_that_fit(built: Path, made: Path, tmp_path: Path) -> None:
    asked = ("scores", built, "--queries", made / "test.jsonl", "--out", tmp_path / "s.npy")
    for options, said in (
        (("--share", 0.1), "--share goes with --aggregate"),
        (("--aggregate", "mean", "--share", 0.1), "--share goes with --aggregate vote"),
        (("--aggregate", "vote", "--share", 3), "above 0 and at most 1"),
        (("--aggregate", "mean", "--over", "heads"), "'heads' is neither"),
        (("--aggregate", "rank", "--over", "layers", "--method", "representer"), "representer has no layers"),
    ):
        called = headwater(*asked, "--method", "tracin", *options)
        assert called.code == 2 and said in called.error and not (tmp_path / "s.npy").exists()


def test_verify_covers_all_that_is_stored(built: Path, tmp_path: Path) -> None:
    told = headwater("verify", built, "--json").json
    names = {Path(store).name.split("-")[0] for store in told["stores"]}
    assert told["ok"] and names == {"all", "last", "representations"}
    index = tmp_path / "index"
    shutil.copytree(built, index)
    source = json.loads((index / "source.json").read_text())
    source["run"] = str((built / source["run"]).resolve())
    (index / "source.json").write_text(json.dumps(source))
    assert headwater("verify", index).code == 0
    damaged = sorted(index.glob("*/**/*.safetensors"))[:2]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-4] + b"oops")
    called = headwater("verify", index)
    assert called.code == 1 and all(str(path) in called.stderr for path in damaged)


def test_an_unfinished_set_says_so(built: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    shutil.copytree(built / "representations", index / "representations")
    (index / "representations" / "manifest.json").unlink()
    assert "unfinished" in headwater("query", index, "--text", TEXT, "--method", "representer").error
    assert "unfinished" in headwater("verify", index).error


def test_a_plain_trainer_folder_is_told_its_corpus_once_by_other_methods_too(tmp_path: Path) -> None:
    rows = builders.rows(24)
    data = write_rows(tmp_path / "data.jsonl", rows)
    builders.train_plainly(tmp_path / "run", rows)
    plain = ("--data", data, "--max-length", 32)
    asked = ("query", tmp_path / "run", "--text", TEXT, "--json", "--method")
    called = headwater("index", tmp_path / "run", *plain, "--method", "tracin-last")
    assert called.code == 0, called.stderr
    for name in ("tracin-last", "bm25"):
        (query,) = headwater(*asked, name).json["queries"]
        assert query["proponents"]
