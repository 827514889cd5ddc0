"""Methods over layer gradients and representations, from texts to scores and words, against dense autograd."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum.influence import TracInCP
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import builders
import headwater as hw
from attribution.conftest import WEIGHTS
from headwater.errors import StoreError, UsageError
from headwater.gradients.layers import Projector

QUERIES = ["the heron admires warm bread", "my neighbour hates unbelievable stories .", "the quiet mill"]
LABELS = ["good", "bad", "good"]
EXACT = Projector(exact_below=1 << 30)


def _dense(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], labels: Sequence[str], part: str
) -> np.ndarray:
    """Gradients of every parameter whose name holds `part`, one backward pass a text, float64 [texts, parameters]."""
    model = model.double().eval()
    chosen = [value for name, value in model.named_parameters() if part in name]
    found = []
    for text, label in zip(texts, labels, strict=True):
        logits = model(**tokenizer(text, truncation=True, max_length=32, return_tensors="pt")).logits
        loss = cross_entropy(logits, torch.tensor([builders.LABEL2ID[label]]))
        gradients = torch.autograd.grad(loss, chosen, allow_unused=True)
        whole = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, chosen, strict=True)]
        found.append(torch.cat([gradient.flatten() for gradient in whole]))
    return torch.stack(found).numpy()


def _tracin(run: hw.Run, tokenizer: PreTrainedTokenizerFast, part: str = "") -> np.ndarray:
    texts, labels = [example.text for example in run.corpus], [str(example.label) for example in run.corpus]
    total = np.zeros((len(QUERIES), len(texts)))
    for checkpoint, weight in zip(run.checkpoints, WEIGHTS, strict=True):
        model = checkpoint.load()
        rows = _dense(model, tokenizer, texts, labels, part)
        total += weight * _dense(model, tokenizer, QUERIES, LABELS, part) @ rows.T
    return total


@pytest.fixture(scope="module")
def layered(run: hw.Run, tmp_path_factory: pytest.TempPathFactory) -> hw.Index:
    """An index with exact gradients of all layers, the last one's by themselves, and representations."""
    folder = tmp_path_factory.mktemp("layered")
    hw.Index.build(run, folder, method="tracin", projector=EXACT, dtype="float32")
    hw.Index.build(run, folder, method="tracin-last", dtype="float32")
    return hw.Index.build(run, folder, method="representation-cosine")


def _close(ours: np.ndarray, truth: np.ndarray, most: float = 1e-4) -> bool:
    return bool(np.abs(ours - truth).max() <= most * np.abs(truth).max())


def test_tracin_over_all_layers_is_the_dot_product_of_all_parameters(
    layered: hw.Index, tokenizer: PreTrainedTokenizerFast
) -> None:
    ours = layered.scores(QUERIES, LABELS, method="tracin")
    assert _close(ours, _tracin(layered.run, tokenizer))


@pytest.mark.parametrize(
    ("layers", "part"),
    [
        ("last", "classifier."),
        ("second-to-last", "pooler."),
        ("word-embeddings", "word_embeddings."),
        ("bert.encoder.layer.0", "layer.0."),
        ("*.query", ".query."),
    ],
)
def test_one_set_of_all_layers_answers_for_any_of_them(
    layers: str, part: str, layered: hw.Index, tokenizer: PreTrainedTokenizerFast
) -> None:
    ours = layered.scores(QUERIES, LABELS, method="tracin", layers=layers)
    assert _close(ours, _tracin(layered.run, tokenizer, part))


def test_tracin_last_agrees_with_captum(layered: hw.Index, tokenizer: PreTrainedTokenizerFast) -> None:
    run = layered.run

    class Wrapped(torch.nn.Module):
        def __init__(self, inner: PreTrainedModel) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> Any:
            return self.inner(input_ids=ids, attention_mask=mask).logits

    def encoded(texts: Sequence[str], labels: Sequence[str]) -> tuple[torch.Tensor, ...]:
        found = tokenizer(list(texts), padding=True, return_tensors="pt")
        targets = torch.tensor([builders.LABEL2ID[label] for label in labels])
        return found["input_ids"], found["attention_mask"], targets

    def load(wrapped: Wrapped, path: str) -> float:
        wrapped.inner.load_state_dict(run.select(Path(path).name)[0].load().state_dict())
        return dict(zip([c.name for c in run.checkpoints], WEIGHTS, strict=True))[Path(path).name]

    rows = encoded([example.text for example in run.corpus], [str(example.label) for example in run.corpus])
    influence = TracInCP(
        Wrapped(run.checkpoints[0].load()),
        TensorDataset(*rows),
        [str(checkpoint.path) for checkpoint in run.checkpoints],
        checkpoints_load_func=load,
        layers=["inner.classifier"],
        loss_fn=torch.nn.CrossEntropyLoss(reduction="sum"),
        batch_size=6,
        sample_wise_grads_per_batch=True,
    )
    theirs = influence.influence(encoded(QUERIES, LABELS)).numpy()
    assert _close(layered.scores(QUERIES, LABELS, method="tracin-last"), theirs)


def test_words_and_the_text_as_a_whole_add_up_to_the_score(layered: hw.Index) -> None:
    why = layered.query(QUERIES, LABELS, k=4, method="tracin")
    scores = layered.scores(QUERIES, LABELS, method="tracin")
    for number, item in enumerate(why):
        for influence in (*item.proponents, *item.opponents):
            assert influence.score == pytest.approx(float(scores[number, influence.example.row]), rel=1e-4)
            assert sum(pair.score for pair in influence.words) == pytest.approx(influence.score, rel=1e-9)
            assert any(pair.train_spans and pair.query_spans for pair in influence.words)


def test_word_pairs_of_the_embedding_layer_hold_those_of_tracin_we(layered: hw.Index, index: hw.Index) -> None:
    """Over the embedding matrix alone, different tokens never meet; equal ones meet place by place."""
    ours = layered.query(QUERIES[:1], LABELS[:1], k=3, method="tracin", layers="word-embeddings")[0]
    theirs = index.query(QUERIES[:1], LABELS[:1], k=3)[0]
    assert [part.example.row for part in ours.proponents] == [part.example.row for part in theirs.proponents]
    for one, other in zip(ours.proponents, theirs.proponents, strict=True):
        found, expected = {}, {}
        for pair in one.words:
            assert pair.part != "words" or pair.special or pair.train == pair.query
            found[pair.query] = found.get(pair.query, 0.0) + pair.score * (pair.part == "words" and not pair.special)
        for pair in other.words:
            expected[pair.query] = expected.get(pair.query, 0.0) + pair.score * (not pair.special)
        for word, score in expected.items():
            assert found[word] == pytest.approx(score, rel=1e-3, abs=1e-9)


def test_a_method_without_words_says_so(layered: hw.Index) -> None:
    answer = layered.query(QUERIES[:1], LABELS[:1], method="representation-cosine")[0]
    assert answer.proponents and any("whole texts" in note for note in answer.notes)


def test_what_is_not_indexed_is_named_with_the_command_that_builds_it(index: hw.Index, layered: hw.Index) -> None:
    with pytest.raises(StoreError, match=r"headwater index .* --method tracin-last"):
        index.scores(QUERIES, LABELS, method="tracin-last")
    with pytest.raises(StoreError, match=r"headwater index .* --method representation-cosine"):
        index.scores(QUERIES, LABELS, method="representation-cosine")
    with pytest.raises(StoreError, match=r"token gradients.* headwater index"):
        layered.scores(QUERIES, LABELS)


def test_a_pattern_that_matches_nothing_lists_what_there_is(layered: hw.Index) -> None:
    with pytest.raises(UsageError, match="There are:"):
        layered.scores(QUERIES, LABELS, method="tracin", layers="nothing.*")


def test_options_of_another_method_are_refused_when_building(run: hw.Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to index"):
        hw.Index.build(run, tmp_path, method="random")
    with pytest.raises(UsageError, match="max_words"):
        hw.Index.build(run, tmp_path, method="tracin", max_words=3)
    with pytest.raises(UsageError, match="layers"):
        hw.Index.build(run, tmp_path, layers="all")


def test_methods_that_read_texts_need_no_index(fresh_run: Callable[..., hw.Run]) -> None:
    run = fresh_run()
    index = hw.Index.of(run)
    assert index.scores(QUERIES, LABELS, method="random").shape == (3, 24)
    with pytest.raises(StoreError, match="headwater index"):
        index.scores(QUERIES, LABELS)


def test_a_set_survives_a_new_process_and_is_verified(layered: hw.Index) -> None:
    again = hw.Index.open(layered.folder, run=layered.run)
    again.verify()
    assert np.array_equal(
        again.scores(QUERIES, LABELS, method="tracin"), layered.scores(QUERIES, LABELS, method="tracin")
    )
    assert again.bytes == layered.bytes > 0


def test_a_damaged_file_of_a_set_is_named(run: hw.Run, tmp_path: Path) -> None:
    index = hw.Index.build(run, tmp_path / "i", method="tracin-last")
    victim = sorted((tmp_path / "i" / "layers").glob("*/segments/*/*.safetensors"))[0]
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(bytes(content))
    with pytest.raises(StoreError, match=victim.name):
        index.verify()


@pytest.mark.parametrize("how", ["mean", "rank", "vote"])
def test_aggregated_over_layers_and_checkpoints_is_what_the_columns_give(how: Any, layered: hw.Index) -> None:
    names = ["bert.encoder.layer.0.attention.self.query", "bert.encoder.layer.1.output.dense"]
    columns = [
        layered.scores(QUERIES, LABELS, method="tracin", layers=name, checkpoints=(checkpoint.name,))
        for name in names
        for checkpoint in layered.checkpoints
    ]
    table = np.concatenate(columns).astype(np.float64)
    ranks = table.argsort(axis=1).argsort(axis=1)
    against = round(0.2 * table.shape[1])
    truth = {
        "mean": table.mean(axis=0),
        "rank": ranks.mean(axis=0),
        "vote": -np.maximum(against - ranks, 0).sum(axis=0),
    }[how]
    ours = layered.aggregate(
        QUERIES, LABELS, how=how, over=("layers", "checkpoints"), method="tracin", layers=",".join(names)
    )
    assert np.allclose(ours, truth, rtol=1e-6, atol=1e-12)


def test_an_unknown_aggregation_or_part_is_refused(layered: hw.Index) -> None:
    with pytest.raises(UsageError, match="mean, rank, vote"):
        layered.aggregate(QUERIES, LABELS, how="max", method="tracin")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no layers"):
        layered.aggregate(QUERIES, LABELS, over=("layers",), method="representation-cosine")


def test_several_runs_are_averaged(
    fresh_run: Callable[..., hw.Run], layered: hw.Index, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    run = fresh_run()
    other = hw.Index.build(run, method="tracin", projector=EXACT, dtype="float32")
    both = hw.Index.open([layered.folder, other.folder], run=[layered.run, run])
    ours = both.scores(QUERIES, LABELS, method="tracin")
    single = [index.scores(QUERIES, LABELS, method="tracin") for index in (layered, other)]
    assert np.allclose(ours, (single[0] + single[1]) / 2, rtol=1e-5)


def test_the_same_run_gives_the_same_bytes(run: hw.Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        hw.Index.build(run, tmp_path / name, method="tracin")
        hw.Index.build(run, tmp_path / name, method="representation-cosine")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.safetensors"))
    assert len(files) == 6  # a segment a checkpoint, and what rows they are of, twice
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_answer_names_the_layers_it_speaks_of(layered: hw.Index) -> None:
    for options, named in [({"method": "tracin"}, "all"), ({"method": "tracin", "layers": "last"}, "last")]:
        assert layered.query(QUERIES[:1], LABELS[:1], k=1, **options).facts["options"]["layers"] == named


def test_batches_change_nothing_but_rounding(
    run: hw.Run, layered: hw.Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.attribution.passes.batch_tokens", lambda device: 16)  # a row or two at a time
    other = hw.Index.build(run, tmp_path, method="tracin", projector=EXACT, dtype="float32")
    ours = other.scores(QUERIES, LABELS, method="tracin")
    assert _close(ours, layered.scores(QUERIES, LABELS, method="tracin"), most=1e-5)
    one_by_one = np.concatenate(
        [other.scores([query], [label], method="tracin") for query, label in zip(QUERIES, LABELS, strict=True)]
    )
    assert _close(one_by_one, ours, most=1e-5)
