"""Compressed token gradients: int8 and int4 numbers, and only the strongest postings of a segment."""

import json
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

import builders
import headwater as hw
from attribution.conftest import make_run
from headwater.attribution.estimate import estimate_index
from headwater.errors import HeadwaterError, StoreError, UsageError
from headwater.gradients import TokenGradients
from headwater.store import Postings, RowRange, Store, StoredCheckpoint, build_store, join, postings_in_memory
from headwater.store.manifest import read_manifest
from headwater.store.postings import encode_block, in_order, strongest
from headwater.store.segment import open_segment, read_facts, write_segment
from store.conftest import SPECIAL, Dense, as_dict, build, plan, random_gradients

TINY = 2.0**-127  # what int8 with the smallest power of two no longer tells from 0


def _of_vectors(vectors: np.ndarray) -> TokenGradients:
    count = len(vectors)
    numbers = torch.from_numpy(vectors.astype(np.float32))
    return TokenGradients(torch.zeros(count, dtype=torch.long), torch.arange(count), numbers)


def _postings(gradients: TokenGradients, dtype: str, energy: float | None = None) -> Postings:
    small, payload, order = in_order([encode_block(gradients, dtype=dtype)], energy=energy)
    return Postings(**({"exponents": None} | small), payload=payload[torch.from_numpy(order)])


@st.composite
def _vectors(draw: st.DrawFn) -> np.ndarray:
    """Some vectors of one width, each of its own magnitude; some of zeros; some whose largest is just below 2**n."""
    width = draw(st.sampled_from([1, 3, 64]))
    drawn = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = []
    for magnitude in draw(st.lists(st.one_of(st.integers(-40, 37), st.none()), min_size=1, max_size=6)):
        row = drawn.normal(size=width) * 10.0 ** drawn.uniform(-4, 0, size=width)
        row /= np.abs(row).max()
        just_below = 0.9999 * 2.0 ** round((magnitude or 0) * 3.3)  # what is rounded up to 128 steps
        scale = just_below if drawn.random() < 0.5 else 10.0 ** (magnitude or 0)
        rows.append(np.zeros(width) if magnitude is None else row * scale)
    return np.array(rows).astype(np.float32)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(_vectors())
def test_int8_keeps_each_component_to_one_127th_of_the_largest_and_norms_bound_what_is_kept(
    vectors: np.ndarray,
) -> None:
    found = _postings(_of_vectors(vectors), "int8")
    decoded = dict(zip(found.token_of().tolist(), found.gradients(slice(None)).double().numpy(), strict=True))
    norms = dict(zip(found.token_of().tolist(), found.norms.tolist(), strict=True))
    for token, vector in enumerate(vectors.astype(np.float64)):
        kept = decoded.get(token, np.zeros(len(vector)))
        assert np.abs(kept - vector).max() <= np.abs(vector).max() / 127 + TINY
        exact = float(np.linalg.norm(kept))
        assert exact <= norms.get(token, 0.0) <= exact * 1.0001
    assert found.payload.dtype == torch.int8


# One of the steps tried is a 7.5th of the largest number, which is off by half a step at most; the step then taken has
# 9 bits. What is below 2**-118 is lost.
@settings(max_examples=150, deadline=None, derandomize=True)
@given(_vectors())
def test_int4_keeps_each_vector_to_half_a_step_a_number_and_norms_bound_what_is_kept(vectors: np.ndarray) -> None:
    vectors = np.pad(vectors, ((0, 0), (0, vectors.shape[1] % 2)))
    found = _postings(_of_vectors(vectors), "int4")
    assert found.payload.shape[1] == vectors.shape[1] // 2 + 1 and found.dimension == vectors.shape[1]
    decoded = dict(zip(found.token_of().tolist(), found.gradients(slice(None)).double().numpy(), strict=True))
    norms = dict(zip(found.token_of().tolist(), found.norms.tolist(), strict=True))
    for token, vector in enumerate(vectors.astype(np.float64)):
        kept = decoded.get(token, np.zeros(len(vector)))
        half = np.sqrt(len(vector)) * (np.abs(vector).max() / 15 + 2.0**-116)
        assert np.linalg.norm(kept - vector) <= half + np.linalg.norm(vector) / 500
        exact = float(np.linalg.norm(kept))
        assert exact <= norms.get(token, 0.0) <= exact * 1.0001


def test_int4_keeps_sixteen_steps_exactly_two_in_a_byte_and_the_last_byte_the_step() -> None:
    vectors = np.array([[7, -8, 1, 0, -1, 3], [-0.75, 0.5, 0.25, 0, 0.125, -1]]) * 3
    found = _postings(_of_vectors(vectors), "int4")
    np.testing.assert_array_equal(found.gradients(slice(None)).numpy(), vectors)
    assert found.payload[0].tolist() == [0x07, 0xF8, 0x31, 128]  # 3 is 1.5 times a power of two
    assert _postings(_of_vectors(vectors), "int4").payload.equal(found.payload)


def test_int4_refuses_gradients_of_an_odd_length() -> None:
    with pytest.raises(StoreError, match=r"pairs; gradients have 3 each: take int8"):
        encode_block(_of_vectors(np.ones((2, 3))), dtype="int4")


def test_an_int4_index_answers_nearly_as_the_exact_one_pruned_or_not_and_says_so(run: hw.Run, tmp_path: Path) -> None:
    exact = hw.Index.build(run, tmp_path / "exact", dtype="float32")
    index = hw.Index.build(run, tmp_path / "int4", dtype="int4", energy=0.999)
    index.verify()
    truth, ours = exact.scores(QUERIES), index.scores(QUERIES)
    assert 0 < (np.linalg.norm(truth - ours, axis=1) / np.linalg.norm(truth, axis=1)).max() < 0.2
    answers = [index.query(QUERIES, k=3, search=how, show=False) for how in ("pruned", "full")]
    sides = [[[(p.example.row, p.score) for p in each.proponents + each.opponents] for each in a] for a in answers]
    assert sides[0] == sides[1]
    (warning,) = [each for each in answers[0].to_dict()["run"]["warnings"] if "approximate" in each]
    assert "16 steps (int4)" in warning


def test_int4_is_estimated_and_normalizes(run: hw.Run, tmp_path: Path) -> None:
    found = estimate_index(run, tmp_path / "int4", checkpoints=run.checkpoints, dtype="int4")
    index = hw.Index.build(run, tmp_path / "int4", dtype="int4")
    assert index.bytes / 2 < found.disk_bytes < index.bytes * 2
    exact = hw.Index.build(run, tmp_path / "exact", dtype="float32").scores(QUERIES, normalize="both")
    assert np.abs(index.scores(QUERIES, normalize="both") - exact).max() < 0.2 * np.abs(exact).max()


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_a_gradient_that_would_be_stored_as_infinity_is_refused(dtype: str) -> None:
    largest = np.finfo(np.float32).max
    for vectors in (np.array([[1.0, 0.0], [0.0, -largest]]), np.full((1, 4), largest * 0.9)):
        with pytest.raises(StoreError, match=r"row 1: its gradient is too large"):
            encode_block(_of_vectors(vectors), dtype=dtype)
    kept = _postings(_of_vectors(np.array([[largest * 0.9, -largest * 0.1]])), dtype)
    np.testing.assert_allclose(kept.gradients(slice(None))[0].numpy(), [largest * 0.9, -largest * 0.1], rtol=0.05)


_NORMS = st.lists(st.sampled_from([1e-6, 0.5, 1.0, 1.5, 3.0, 400.0]), min_size=1, max_size=40)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(_NORMS, st.sampled_from([0.01, 0.5, 0.9, 0.999, 0.9999999]), st.randoms(use_true_random=False))
def test_energy_keeps_at_least_its_share_drops_the_smallest_and_never_depends_on_order(norms, energy, random) -> None:
    postings = [(norm, place % 3, place // 3) for place, norm in enumerate(norms)]  # norm, row, token
    ranked = sorted(postings, key=lambda posting: (-posting[0], posting[1], posting[2]))
    squares = [Fraction(norm) ** 2 for norm, _, _ in ranked]
    random.shuffle(postings)
    columns = [np.array(column) for column in zip(*postings, strict=True)]
    mask = strongest(columns[0].astype(np.float64), columns[1], columns[2], energy)
    count = int(mask.sum())
    assert {posting for posting, here in zip(postings, mask, strict=True) if here} == set(ranked[:count])
    share, rounding = Fraction(energy) * sum(squares), 1 + Fraction(1, 10**12)
    assert sum(squares[:count]) * rounding >= share > sum(squares[: count - 1]) / rounding


def _rows_of(everything: TokenGradients, size: int):
    def gradients(_: StoredCheckpoint, part: RowRange) -> Iterator[TokenGradients]:
        for start in range(part.start, part.stop, size):
            here = (everything.rows >= start) & (everything.rows < min(start + size, part.stop))
            yield TokenGradients(everything.rows[here], everything.tokens[here], everything.gradients[here])

    return gradients


def _build(folder: Path, everything: TokenGradients, rows: int, size: int = 3, **options: object) -> Store:
    build_store(folder, plan(rows, size=9, **options), _rows_of(everything, size), others={}, kept=lambda _: None)
    return Store.open(folder)


def test_a_segment_holds_the_strongest_of_its_own_rows_however_they_came(tmp_path: Path, files) -> None:
    everything = random_gradients(2, 20)
    options = {"dtype": "int8", "energy": 0.99}
    store = _build(tmp_path / "a", everything, 20, **options)
    _build(tmp_path / "b", everything, 20, size=9, **options)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    whole = _build(tmp_path / "whole", everything, 20, dtype="int8")
    for part, all_of_it in zip(*(each.segments(each.manifest.checkpoints[0]) for each in (store, whole)), strict=True):
        norms = part.postings.norms.astype(np.float64)
        every = all_of_it.postings.norms.astype(np.float64)
        assert 0 < len(norms) < len(every) and (norms**2).sum() >= 0.99 * (every**2).sum()
        assert norms.min() >= np.sort(every)[::-1][: len(norms)].min()
        rows = [dict(zip(zip(p.rows.tolist(), p.token_of().tolist(), strict=True), p.ranks.tolist(), strict=True))
                for p in (part.postings, all_of_it.postings)]  # fmt: skip
        assert rows[0].items() <= rows[1].items()  # a word keeps its rank, so max_words still means the same


# What is lost of a vector, by definition: all of one that was dropped, 1/127 of the largest number of one that was not.
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 30),
    queries=st.sampled_from([1, 17]),
    energy=st.sampled_from([None, 0.5, 0.99, 0.9999]),
    most=st.sampled_from([None, 2]),
)
def test_scores_of_an_int8_index_differ_from_exact_ones_by_no_more_than_what_was_left_out(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rows: int, queries: int, energy: float | None, most: int | None
) -> None:
    everything, asked = random_gradients(seed, rows), random_gradients(seed + 1, queries)
    options = {"dtype": "int8", "energy": energy, "max_words": most}
    store = _build(tmp_path_factory.mktemp("store"), everything, rows, **options)
    kept: set[tuple[int, int]] = set()
    ours = np.zeros((queries, rows), dtype=np.float32)
    for segment in store.segments(store.manifest.checkpoints[0]):
        join(ours, postings_in_memory(asked, special=SPECIAL), segment, 0.5)
        found = segment.postings
        kept |= set(zip((found.rows + segment.rows.start).tolist(), found.token_of().tolist(), strict=True))
    exact, bound = _exact(as_dict(asked), as_dict(everything), kept, ours.shape)
    assert (np.abs(ours - 0.5 * exact) <= 0.5 * bound + 1e-30).all()
    if energy is None and most is None:
        assert kept == {key for key, vector in as_dict(everything).items() if vector.any()}


def _exact(asked: Dense, stored: Dense, kept: set[tuple[int, int]], shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
    scores, bound = np.zeros(shape), np.zeros(shape)
    for (query, token), one in asked.items():
        for (row, other), vector in stored.items():
            if token == other:
                lost = np.abs(vector).max() / 127 * np.ones(len(vector)) if (row, token) in kept else np.abs(vector)
                scores[query, row] += one @ vector
                bound[query, row] += np.abs(one) @ lost + 1e-6 * np.linalg.norm(one) * np.linalg.norm(vector)
    return scores, bound


def test_options_that_an_index_does_not_use_leave_no_trace_in_it(tmp_path: Path) -> None:
    store = build(tmp_path / "store", plan(7))
    assert "energy" not in json.loads((store.folder / "manifest.json").read_text())
    assert all("energy" not in read_facts(path) for path in store.folder.rglob("*.safetensors"))
    build(tmp_path / "lossy", plan(7, dtype="int8", energy=0.9)).verify()
    assert read_manifest(tmp_path / "lossy").energy == 0.9


@pytest.mark.parametrize(
    ("there", "ours", "named"),
    [
        ({"energy": 0.9}, {}, "energy=0.9, not None"),
        ({}, {"energy": 0.9}, "energy=None, not 0.9"),
        ({"energy": 0.9}, {"energy": 0.99}, "energy=0.9, not 0.99"),
        ({"dtype": "int8"}, {"dtype": "float16"}, "dtype='int8', not 'float16'"),
    ],
)
def test_building_on_with_other_options_is_refused(tmp_path: Path, there: dict, ours: dict, named: str) -> None:
    build(tmp_path, plan(7, **there))
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(StoreError, match=named):
        build(tmp_path, plan(7, **ours))
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_an_interrupted_lossy_build_resumes_to_the_same_bytes_and_damage_is_found(tmp_path: Path, files) -> None:
    wanted = plan(10, dtype="int8", energy=0.95)
    build(tmp_path / "whole", wanted)
    store = build(tmp_path / "again", wanted)
    segments = sorted(store.folder.rglob("*.safetensors"))
    segments[1].unlink()
    (store.folder / "manifest.json").unlink()
    store = build(tmp_path / "again", wanted)
    assert files(tmp_path / "again") == files(tmp_path / "whole")
    store.verify()
    whole = segments[0].read_bytes()
    segments[0].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(StoreError, match="checksum"):
        store.verify()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> hw.Run:
    models = [builders.tiny_model(seed=seed) for seed in (0, 1)]
    return make_run(tmp_path_factory.mktemp("run"), models, tokenizer, builders.rows(120))


QUERIES = [row["text"] for row in builders.rows(6, seed=5)]


def test_a_real_models_lossy_index_answers_nearly_as_the_exact_one_and_says_that_it_is_lossy(
    run: hw.Run, tmp_path: Path
) -> None:
    exact = hw.Index.build(run, tmp_path / "exact", dtype="float32")
    lossy = hw.Index.build(run, tmp_path / "lossy", dtype="int8", energy=0.99)
    assert lossy._members[0].tokens.bytes < exact._members[0].tokens.bytes
    truth, ours = exact.scores(QUERIES), lossy.scores(QUERIES)
    norms = np.linalg.norm(truth - ours, axis=1) / np.linalg.norm(truth, axis=1)
    assert 0 < norms.max() < 0.15  # 1% of the squared norms, and 1/127
    answer = lossy.query(QUERIES, k=5)
    (warning,) = [each for each in answer.to_dict()["run"]["warnings"] if "approximate" in each]
    assert "int8" in warning and "0.01 of all squared norms" in warning
    assert "approximate" not in json.dumps(exact.query(QUERIES[:1], k=5).to_dict())
    for attribution, line in zip(answer, ours, strict=True):
        for part in attribution.proponents:
            assert part.score == pytest.approx(float(line[part.example.row]), rel=1e-4, abs=1e-7)
    lossy.verify()


@pytest.mark.parametrize("normalize", ["train", "both"])
def test_an_index_of_the_strongest_gradients_does_not_normalize_but_one_of_all_in_int8_does(
    run: hw.Run, tmp_path: Path, normalize: str
) -> None:
    strongest_alone = hw.Index.build(run, tmp_path / "strongest", energy=0.999)
    with pytest.raises(UsageError, match="keeps the strongest alone"):
        strongest_alone.query(QUERIES, normalize=normalize)
    exact = hw.Index.build(run, tmp_path / "exact", dtype="float32").scores(QUERIES, normalize=normalize)
    ours = hw.Index.build(run, tmp_path / "int8", dtype="int8").scores(QUERIES, normalize=normalize)
    assert np.abs(ours - exact).max() < 0.02 * np.abs(exact).max()


@pytest.mark.parametrize("energy", [None, 0.9])
def test_what_a_lossy_index_will_take_is_estimated(run: hw.Run, tmp_path: Path, energy: float | None) -> None:
    options = {"dtype": "int8", "energy": energy}
    found = estimate_index(run, tmp_path, checkpoints=run.checkpoints, **options)  # type: ignore[arg-type]
    built = hw.Index.build(run, tmp_path, **options)  # type: ignore[arg-type]
    assert built.bytes / 2 < found.disk_bytes < built.bytes * 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dtype": "int7"}, "float16, float32, int8 or int4"),
        ({"energy": 0.0}, "above 0 and below 1"),
        ({"energy": 1}, "above 0 and below 1"),
        ({"energy": float("nan")}, "above 0 and below 1"),
        ({"energy": 99.9}, "above 0 and below 1"),
        ({"method": "tracin", "dtype": "int8"}, "only those are stored as int8"),
        ({"method": "tracin", "dtype": "int4"}, "only those are stored as int4"),
        ({"method": "tracin", "energy": 0.9}, "energy says nothing to it"),
    ],
)
def test_nonsense_is_refused_before_anything_is_written(run: hw.Run, tmp_path: Path, options: dict, named: str) -> None:
    with pytest.raises(HeadwaterError, match=named):
        hw.Index.build(run, tmp_path / "index", **options)
    assert not (tmp_path / "index").exists()


def test_an_int4_store_has_the_same_bytes_whatever_the_batches_and_finds_a_flipped_byte(tmp_path: Path, files) -> None:
    everything = random_gradients(2, 20, width=6)
    store = _build(tmp_path / "a", everything, 20, dtype="int4", energy=0.99)
    _build(tmp_path / "b", everything, 20, size=9, dtype="int4", energy=0.99)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    store.verify()
    path = sorted(store.folder.rglob("*.safetensors"))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(StoreError, match="checksum"):
        store.verify()


@pytest.mark.parametrize("width", [0, 1])
def test_an_int4_segment_without_room_for_a_pair_is_damaged(tmp_path: Path, width: int) -> None:
    block = encode_block(random_gradients(2, 5, width=6), dtype="int4")
    path = tmp_path / "one.safetensors"
    write_segment(path, [replace(block, payload=block.payload[:, :width])], first_row=0, facts={"start": 0, "stop": 5})
    with pytest.raises(StoreError, match="damaged"):
        open_segment(path)
