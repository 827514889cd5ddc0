"""Rules over transformed queries: each against its formula by hand; the transforms; the command that asks them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import headwater as hw
from audit.conftest import Made
from cli.conftest import headwater
from headwater.audit.measured import split_held_out
from headwater.audit.poison.audit import audit_poison
from headwater.audit.poison.ensemble import compare, judge, turned_labels, verdicts
from headwater.audit.poison.transforms import TRANSFORMS
from headwater.errors import UsageError

BY_NAME = {transform.name: transform for transform in TRANSFORMS}


@pytest.mark.parametrize(
    ("name", "text", "made"),
    [
        ("negation-prefix", "a fine film", "it is not true that a fine film"),
        ("antonyms", "Good and bad", "Bad and good"),
        ("antonyms", "the heron", None),
        ("synonyms", "a movie for the audience", "a film for the viewers"),
        ("paraphrase", "we're late", "to put it another way , we are late"),
        ("question", "it works .", "who would ever say that it works ? nobody ."),
        ("negated-verb", "it is good", "it is not good"),
        ("negated-verb", "it is not good", "it is good"),
        ("negated-verb", "you can't win", "you can win"),
        ("negated-verb", "no verb", None),
        ("clause-order", "first of all, second to none.", "second to none, first of all."),
        ("clause-order", "one, two three", None),
        ("negation-prefix", " ", None),
    ],
)
def test_a_transform_says_a_text_otherwise(name: str, text: str, made: str | None) -> None:
    assert BY_NAME[name].of(text) == made
    assert BY_NAME[name].of(text) == made  # again: nothing is drawn


def test_rules_are_their_formulas() -> None:
    generator = np.random.default_rng(0)
    rows = 60
    pairs = [(generator.normal(size=(8, rows)), generator.normal(size=(8, rows))) for _ in TRANSFORMS]
    answers = [compare(each, *pair) for each, pair in zip(TRANSFORMS, pairs, strict=True)]
    found = verdicts(answers)
    relative = np.zeros((len(pairs), rows))
    strength, direction = np.zeros_like(relative), np.zeros_like(relative)
    for at, (asked, changed) in enumerate(pairs):
        for row in range(rows):
            a, b = asked[:, row], changed[:, row]
            strength[at, row] = abs(sum(a) / 8)
            relative[at, row] = abs(sum(a) / 8 - sum(b) / 8) / (strength[at, row] + 1e-8)
            direction[at, row] = a @ b / (np.sqrt(a @ a) * np.sqrt(b @ b))
    turning = [at for at, each in enumerate(TRANSFORMS) if each.turns]
    strong, steady = strength[turning].mean(axis=0), relative[turning].mean(axis=0)
    v1 = (strong > np.percentile(strong, 90)) & (steady < np.percentile(steady, 10))
    assert (found["v1"].flagged == v1).all()
    consistency = direction.mean(axis=0) / (1 + relative.var(axis=0))
    resistance = 1 / (1 + relative.mean(axis=0))
    kinds = {each.kind for each in TRANSFORMS}
    by_kind = {
        kind: np.mean([relative[at] for at, each in enumerate(TRANSFORMS) if each.kind == kind], axis=0)
        for kind in kinds
    }
    crossvar = np.var(list(by_kind.values()), axis=0)

    def z(values: np.ndarray) -> np.ndarray:
        return (values - values.mean()) / values.std()

    unit = (crossvar - crossvar.min()) / (crossvar.max() - crossvar.min())
    score = 0.3 * z(consistency) + 0.4 * z(resistance) + 0.3 * (1 - unit)
    assert found["ensemble"].score == pytest.approx(score)
    assert (found["ensemble"].flagged == (score > np.percentile(score, 90))).all()
    votes = np.zeros(rows)
    for each in by_kind.values():
        votes[sorted(range(rows), key=lambda row: (each[row], row))[:20]] += 1
    assert (found["vote"].flagged == (votes >= len(kinds) / 2)).all()
    assert (found["unanimous"].flagged == (votes == len(kinds))).all()
    spread = relative.var(axis=0)
    assert (found["variance"].flagged == (spread > np.percentile(spread, 95))).all()


def test_labels_are_turned_both_ways_or_refused() -> None:
    assert turned_labels({"bad": "good"}, ["bad", "good"]) == {"bad": "good", "good": "bad"}
    for wrong in ({}, {"bad": "nobody"}, {"bad": "bad"}):
        with pytest.raises(UsageError, match="opposites"):
            turned_labels(wrong, ["bad", "good"])


@pytest.fixture(scope="module")
def layered(sound: Made, tmp_path_factory: pytest.TempPathFactory) -> hw.Index:
    """Token gradients, and those of all layers, of the clean run; in a folder of their own."""
    folder = tmp_path_factory.mktemp("layered") / "index"
    hw.Index.build(sound.run, folder, show=False)
    hw.Index.build(sound.run, folder, method="tracin", show=False)
    return hw.Index.open(folder)


def test_the_rules_stand_beside_the_claim_and_never_make_one(sound: Made, layered: hw.Index) -> None:
    held = split_held_out(sound.run)[0]
    assert held is not None
    judged, answers, _ = judge(layered, held, opposites={"bad": "good"}, show=False)
    assert next(iter(judged)) == "v1" and all(len(each.score) == len(sound.run.corpus) for each in judged.values())
    assert any(answer.transform.turns for answer in answers)
    again, *_ = judge(layered, held, opposites={"bad": "good"}, show=False)
    assert all((judged[name].score == again[name].score).all() for name in judged)
    found = audit_poison(sound.run, layered, held, opposites={"bad": "good"}, show=False)
    assert found.suspects == () and "Transformed queries flag" in found.notes[0]
    assert found.figures["rules"]["ensemble"]["flagged"] == int(judged["ensemble"].flagged.sum())
    with pytest.raises(UsageError, match="--method tracin"):
        judge(sound.index, held, opposites={"bad": "good"}, show=False)


def test_where_time_is_short_words_come_before_transforms(sound: Made, layered: hw.Index) -> None:
    held = split_held_out(sound.run)[0]
    assert held is not None
    found = audit_poison(sound.run, layered, held, opposites={"bad": "good"}, left=lambda: 0.0, show=False)
    assert "rules" not in found.figures and len(found.figures["candidates"]) == 1
    assert "The time did not suffice to ask transformed queries. Give more --budget." in found.notes
    looks = iter((1.0, 1.0, 1.0))
    some = judge(layered, held, opposites={"bad": "good"}, left=lambda: next(looks, 0.0), show=False)
    whole = judge(layered, held, opposites={"bad": "good"}, show=False)
    assert len(some.answers) == 2 and some.verdicts and some.unasked == len(whole.answers) - 2 and not whole.unasked


def test_the_command_takes_pairs_of_labels(sound: Made, tmp_path: Path) -> None:
    refused = headwater("audit", sound.run.folder, "poison", "--opposites", "bad", "--out", tmp_path)
    assert refused.code != 0 and "give A=B" in refused.stderr
    told = headwater("audit", sound.run.folder, "poison", "--opposites", "bad=good", "--out", tmp_path, "--json")
    assert told.code != 0 and "--method tracin" in told.stderr
    plain = headwater("audit", sound.run.folder, "poison", "--out", tmp_path, "--json")
    assert plain.code == 0 and "rules" not in json.loads(plain.stdout)["figures"]
