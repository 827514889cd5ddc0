"""The methods there are. A new one is a file beside this one and an entry here; every face then offers it."""

from __future__ import annotations

import difflib

from headwater.errors import UsageError
from headwater.methods import (
    bm25,
    datainf,
    gradient_cosine,
    influence_last,
    less,
    logra,
    random_scores,
    representation_cosine,
    representer,
    tfidf_gradient,
    tfidf_label,
    tracin,
    tracin_we,
    trackstar,
    trak,
)
from headwater.methods.method import Method

_WHOLE = "none: a score is of the text as a whole"
_PAIRS = "exact for layers that see tokens: pairs of places, and one entry for layers that see the text as a whole"

_METHODS: tuple[Method, ...] = (
    Method(
        name="tracin-we",
        summary="dot product of the gradients on the word-embedding matrix, word by shared word",
        need="tokens",
        cost="milliseconds a query, read from the index",
        words="exact: the scores of word pairs add up to the score of the row",
        paper="Yeh et al. 2022, First is Better Than Last for Language Data Influence (arXiv 2202.11844)",
        options=tracin_we.TracInWE,
        prepare=tracin_we.prepare,
    ),
    Method(
        name="tracin",
        summary="dot product of the gradients on the layers that are indexed",
        need="layers",
        cost="one pass over the stored gradients",
        words=_PAIRS,
        paper="Pruthi et al. 2020, Estimating Training Data Influence by Tracing Gradient Descent (arXiv 2002.08484)",
        options=tracin.TracIn,
        prepare=tracin.prepare,
    ),
    Method(
        name="tracin-last",
        summary="dot product of the gradients on the last layer",
        need="layers",
        cost="one pass over the stored gradients",
        words=_PAIRS,
        paper="Yeh et al. 2022, First is Better Than Last for Language Data Influence (arXiv 2202.11844)",
        options=tracin.TracInLast,
        prepare=tracin.prepare,
        layers="last",
    ),
    Method(
        name="tracin-second",
        summary="dot product of the gradients on the layer before the last",
        need="layers",
        cost="one pass over the stored gradients",
        words=_PAIRS,
        paper="Yeh et al. 2022, First is Better Than Last for Language Data Influence (arXiv 2202.11844)",
        options=tracin.TracInSecond,
        prepare=tracin.prepare,
        layers="second-to-last",
    ),
    Method(
        name="tracin-all",
        summary="dot product of the gradients on every layer",
        need="layers",
        cost="one pass over the stored gradients",
        words=_PAIRS,
        paper="Yeh et al. 2022, First is Better Than Last for Language Data Influence (arXiv 2202.11844)",
        options=tracin.TracInAll,
        prepare=tracin.prepare,
    ),
    Method(
        name="gradient-cosine",
        summary="cosine of the gradients over all layers in one",
        need="layers",
        cost="two passes over the stored gradients",
        words=_PAIRS,
        paper="ablation of Chang et al. 2025, Scalable Influence and Fact Tracing (arXiv 2410.17413)",
        options=gradient_cosine.GradientCosine,
        prepare=gradient_cosine.prepare,
    ),
    Method(
        name="trackstar",
        summary="cosine of whitened gradients over Adam's second moments; what all queries share counts less",
        need="layers",
        cost="three passes over the stored gradients, and a matrix of each layer",
        words=_PAIRS,
        paper="Chang et al. 2025, Scalable Influence and Fact Tracing for LLM Pretraining (arXiv 2410.17413)",
        options=trackstar.TrackStar,
        prepare=trackstar.prepare,
        scale="second-moments",
    ),
    Method(
        name="trak",
        summary="what a linear model of the log-odds would lose without the row; averaged over checkpoints and runs",
        need="layers",
        cost="two passes over the stored gradients, and a matrix of dim x dim",
        words=_PAIRS,
        paper="Park et al. 2023, TRAK: Attributing Model Behavior at Scale (arXiv 2303.14186)",
        options=trak.Trak,
        prepare=trak.prepare,
    ),
    Method(
        name="logra",
        summary="influence function with the Fisher information of each layer's projected gradients",
        need="layers",
        cost="two passes over the stored gradients, and a matrix of each layer",
        words=_PAIRS,
        paper="Choe et al. 2024, What is Your Data Worth to GPT? (arXiv 2405.13954)",
        options=logra.LoGra,
        prepare=logra.prepare,
    ),
    Method(
        name="datainf",
        summary="influence function whose inverse curvature is the mean of the rows' inverses, in closed form",
        need="layers",
        cost="three passes over the stored gradients, and a matrix of each layer",
        words=_PAIRS,
        paper="Kwon et al. 2024, DataInf: Efficiently Estimating Data Influence in LoRA-tuned LLMs (arXiv 2310.00902)",
        options=datainf.DataInf,
        prepare=datainf.prepare,
    ),
    Method(
        name="less",
        summary="cosine of the query's gradient with the step that Adam would take on the row",
        need="layers",
        cost="two passes over the stored steps",
        words="none: a step of Adam is no sum over words",
        paper="Xia et al. 2024, LESS: Selecting Influential Data for Targeted Instruction Tuning (arXiv 2402.04333)",
        options=less.Less,
        prepare=less.prepare,
        scale="adam-update",
    ),
    Method(
        name="representer",
        summary="how far the row pulls the logit of the class explained, by features and error in the last layer",
        need="representations",
        cost="one pass over the stored representations",
        words=_WHOLE,
        paper="Yeh et al. 2018, Representer Point Selection for Explaining Deep Neural Networks (arXiv 1811.09720)",
        options=representer.Representer,
        prepare=representer.prepare,
        classes=True,
    ),
    Method(
        name="influence-last",
        summary="influence function with the exact Hessian of the last layer",
        need="representations",
        cost="three passes over the stored representations and a Hessian, or a pass a step where that is too large",
        words=_WHOLE,
        paper="Koh & Liang 2017, Understanding Black-box Predictions via Influence Functions (arXiv 1703.04730)",
        options=influence_last.InfluenceLast,
        prepare=influence_last.prepare,
        classes=True,
    ),
    Method(
        name="representation-cosine",
        summary="cosine of what the last layer sees: likeness to the model, whatever the labels",
        need="representations",
        cost="one pass over the stored representations",
        words=_WHOLE,
        paper="Hanawa et al. 2021, Evaluation of Similarity-based Explanations (arXiv 2006.04528)",
        options=representation_cosine.RepresentationCosine,
        prepare=representation_cosine.prepare,
    ),
    Method(
        name="tfidf-gradient",
        summary="tracin-last with the tf-idf cosine of the texts in place of the product of features",
        need="representations",
        cost="one pass over the stored representations and the texts",
        words=_WHOLE,
        paper="Yeh et al. 2022, First is Better Than Last for Language Data Influence (arXiv 2202.11844)",
        options=tfidf_gradient.TfIdfGradient,
        prepare=tfidf_gradient.prepare,
        classes=True,
    ),
    Method(
        name="bm25",
        summary="words shared, rare ones counting more: a search engine's score, without a model",
        need="texts",
        cost="reads the texts once",
        words=_WHOLE,
        paper="Robertson & Zaragoza 2009, The Probabilistic Relevance Framework: BM25 and Beyond",
        options=bm25.BM25,
        prepare=bm25.prepare,
    ),
    Method(
        name="bm25-label",
        summary="bm25, negative where the row has another label than the one explained",
        need="texts",
        cost="reads the texts once",
        words=_WHOLE,
        paper="Robertson & Zaragoza 2009, with labels: a baseline of ours",
        options=bm25.BM25,
        prepare=bm25.prepare_label,
        classes=True,
    ),
    Method(
        name="tfidf-label",
        summary="tf-idf cosine, negative where the row has another label than the one explained",
        need="texts",
        cost="reads the texts once",
        words=_WHOLE,
        paper="Salton & Buckley 1988, Term-weighting Approaches in Automatic Text Retrieval, with labels: ours",
        options=tfidf_label.TfIdfLabel,
        prepare=tfidf_label.prepare,
        classes=True,
    ),
    Method(
        name="random",
        summary="seeded random numbers: what a method that knows nothing gets",
        need="texts",
        cost="reads the texts once",
        words=_WHOLE,
        paper="none: a floor for comparisons",
        options=random_scores.RandomScores,
        prepare=random_scores.prepare,
    ),
)


def all_methods() -> tuple[Method, ...]:
    """Return every method, in the order of the registry."""
    return _METHODS


def get_method(name: str) -> Method:
    """Return the method of this name. Raises UsageError that lists the choices."""
    for method in _METHODS:
        if method.name == name:
            return method
    names = [method.name for method in _METHODS]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"there is no method {name!r}.{hint} There are: {', '.join(names)}.")
