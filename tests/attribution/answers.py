"""Example answers for tests of the faces: small dicts of the shape of `Attributions.to_dict()`, all texts our own.

Scores are made up from word overlap; what is real is their arithmetic: words and special tokens add up to the score.
"""

from __future__ import annotations

import random
import re
from typing import Any

Row = tuple[int, str, str]  # row number, label, text

_WORD = re.compile(r"\w+|[^\w\s]")


def spans_of(text: str, part: int = 0) -> list[list[int]]:
    return [[match.start(), match.end(), part] for match in _WORD.finditer(text)]


def row(
    example: int,
    label: str,
    text: str,
    query: str,
    *,
    weights: dict[str, float],
    special: float,
    rest: float = 0.0004,
    spread: random.Random | None = None,
    pair: str | None = None,
    query_pair: str | None = None,
    synonyms: dict[str, tuple[str, float]] | None = None,
    hub: int = 1,
    percentile: float = 99.9,
    id: str | None = None,
) -> dict[str, Any]:
    """A row of an answer: each word that it shares with the query scores its weight, or `rest`.

    With `spread` each place of a word in the query gets a share of its own, as places do.
    """
    places: dict[str, list[list[int]]] = {}
    for part, body in enumerate([text] if pair is None else [text, pair]):
        for start, end, _ in spans_of(body):
            places.setdefault(body[start:end].lower(), []).append([start, end, part])
    words = []
    for part, body in enumerate([query] if query_pair is None else [query, query_pair]):
        for start, end, _ in spans_of(body):
            word = body[start:end]
            train, cosine = word.lower(), None
            if train not in places and synonyms and train in synonyms:
                train, cosine = synonyms[train]
            if train in places:
                spans = places[train]
                first = [text, pair or ""][spans[0][2]][spans[0][0] : spans[0][1]]
                words.append(
                    {
                        "train": first,
                        "query": word,
                        "score": weights.get(train, rest) * (spread.lognormvariate(-0.5, 1) if spread else 1.0),
                        "places": len(spans),
                        "special": False,
                        "synonym": cosine,
                        "train_spans": spans,
                        "query_spans": [[start, end, part]],
                    }
                )
    specials = [
        {"train": token, "query": token, "score": special / 2, "places": 1, "special": True, "synonym": None}
        | {"train_spans": [], "query_spans": []}
        for token in ("[CLS]", "[SEP]")
    ]
    return {
        "example": example,
        "id": id,
        "score": sum(word["score"] for word in words) + special,
        "percentile": percentile,
        "text": text,
        "text_pair": pair,
        "label": label,
        "hub": hub,
        "words": words + specials,
        "special": special,
    }


def query(
    text: str, label: str, predicted: str, proponents: list[Any], opponents: list[Any], **more: Any
) -> dict[str, Any]:
    proponents = sorted(proponents, key=lambda r: -r["score"])
    totals: dict[str, float] = {}
    for found in proponents:
        for word in found["words"]:
            if not word["special"]:
                totals[word["query"]] = totals.get(word["query"], 0.0) + word["score"]
    push = sum(found["score"] for found in proponents)
    word = max(totals, key=lambda key: totals[key]) if totals else None
    summary = {
        "push": push,
        "top_share": 0.31,
        "top_rows": len(proponents),
        "word": word,
        "word_share": totals[word] / push if word else None,
    }
    pair = more.get("text_pair")
    words = spans_of(text) + (spans_of(pair, 1) if pair else [])
    return {
        "text": text,
        "text_pair": None,
        "label": label,
        "label_source": "given",
        "predicted": predicted,
        "probability": 0.93,
        "loss": 2.659,
        "words": words,
        "notes": [],
        "summary": summary,
        "proponents": proponents,
        "opponents": sorted(opponents, key=lambda r: r["score"]),
    } | more


def answer(queries: list[Any], labels: list[str], **run: Any) -> dict[str, Any]:
    return {
        "method": "tracin-we",
        "options": {"max_words": None, "special_tokens": True, "synonyms": False, "normalize": None}
        | {"checkpoints": ["checkpoint-32", "checkpoint-63"]},
        "run": {
            "name": "demo-run",
            "rows": 2000,
            "labels": labels,
            "checkpoints": [
                {"name": "checkpoint-32", "step": 32, "weight": 0.00121},
                {"name": "checkpoint-63", "step": 63, "weight": 0.00038},
            ],
            "model": "BertForSequenceClassification",
            "warnings": [],
        }
        | run,
        "queries": queries,
    }


# Our own messages; the third number is the row's special-token part.
_SMS = [
    (
        "You have been chosen for a free weekend in Lisbon. Call now to claim your prize, free entry until Friday",
        "spam",
        "ham",
        {"free": 0.0102, "claim": 0.0061, "prize": 0.0068, "call": 0.0044, "now": 0.0021, "entry": 0.0033},
        [
            (1204, "spam", "FREE entry! Text WIN to claim a free weekend prize, call 0900 555 013 now", 0.0011, 3),
            (87, "spam", "Your number was chosen: claim the prize today. Call now, lines close at ten", 0.0008, 2),
            (512, "spam", "Last chance to call and claim. A free phone is waiting for you, free delivery", 0.0009, 1),
            (1733, "spam", "Congratulations, you have a free prize! 🎉 Reply YES until Friday", 0.0004, 1),
            (940, "spam", "Win a weekend for two in Porto, entry free, just text SUN", 0.0005, 1),
        ],
        [
            (301, "ham", "Claim your free prize now, call us free before the weekend ends", -0.0021, 2),
            (1611, "ham", "free entry for all of us on Friday! i asked the band, call me", -0.0012, 1),
            (45, "ham", "Have you got your coat? Call now and I will wait in the car", -0.0006, 1),
            (1402, "ham", "The weekend in Lisbon was lovely, you have to go until it gets too hot", -0.0007, 1),
            (733, "ham", "ok. call you after the match", -0.0003, 1),
        ],
    ),
    (
        "Sorry, stuck in the meeting. Will call you when I get a break, save me some soup",
        "ham",
        "ham",
        {"sorry": 0.0052, "meeting": 0.0031, "call": 0.0048, "will": 0.0015, "soup": 0.0009, "later": 0.002},
        [
            (18, "ham", "Sorry, in a meeting. Will call when it ends", 0.0012, 2),
            (411, "ham", "sorry sorry sorry, the train is late. get some soup for me", 0.0005, 1),
            (1190, "ham", "I will be in town by six. Save me a seat", 0.0004, 1),
        ],
        [
            (87, "spam", "Your number was chosen: claim the prize today. Call now, lines close at ten", -0.0009, 2),
            (1204, "spam", "FREE entry! Text WIN to claim a free weekend prize, call 0900 555 013 now", -0.0008, 3),
        ],
    ),
    (
        "Final notice: your parcel is held. Pay the 1.99 fee at the link to get it today",
        "spam",
        "ham",
        {"parcel": 0.0071, "fee": 0.0049, "pay": 0.0042, "link": 0.0046, "today": 0.0013, "final": 0.0028},
        [
            (655, "spam", "Final notice! Follow the link today or your account is closed", 0.0008, 1),
            (1204, "spam", "FREE entry! Text WIN to claim a free weekend prize, call 0900 555 013 now", 0.0003, 3),
        ],
        [
            (1017, "ham", "Can you pay for the parcel today? The fee is about two euros, link below", -0.0014, 1),
            (302, "ham", "the parcel is at the neighbour's, get it today pls", -0.0006, 1),
        ],
    ),
]  # fmt: skip


def sms_answer() -> dict[str, Any]:
    """Three short messages, two of them said to be ham though they are spam; one row stands in three lists."""
    queries = []
    for text, label, predicted, weights, toward, away in _SMS:
        sides = []
        for sign, rows in ((1, toward), (-1, away)):
            signed = {word: sign * weight for word, weight in weights.items()}
            side = [
                row(number, given, body, text, weights=signed, rest=0.0004 * sign, special=special, hub=hub,
                    id=f"sms-{number:04}", percentile=99.95 - 0.05 * place if sign > 0 else 0.05 * place)
                for place, (number, given, body, special, hub) in enumerate(rows)
            ]  # fmt: skip
            # One word that pulls against its row, as real rows have.
            if len(side) > 2:
                for word in side[1]["words"]:
                    if word["train"].lower() == "call":
                        side[1]["score"] -= 1.5 * word["score"]
                        word["score"] *= -0.5
            sides.append(side)
        queries.append(query(text, label, predicted, *sides))
    queries[1] |= {"probability": 0.987, "loss": 0.0131}
    queries[2] |= {"probability": 0.61, "loss": 0.94, "notes": ["cut to 64 tokens"]}
    return answer(queries, ["ham", "spam"])


def news_answer() -> dict[str, Any]:
    """A sentence of news with a synonym tie, tiny scores, and a label that the model itself said."""
    text = "Crude prices climb again as storms shut wells in the gulf, and shares of airlines slide"
    weights = {"crude": 4.1e-6, "oil": 3.2e-6, "prices": 2.2e-6, "shares": 1.4e-6, "wells": 0.9e-6, "slide": 0.6e-6}
    synonyms = {"crude": ("oil", 0.71), "airlines": ("carriers", 0.64)}
    toward = [
        (5210, "Business", "Oil prices climb past fifty on fears that storms may shut more wells in the gulf"),
        (31077, "Business", "Crude inventories fall; shares of carriers slide again"),
        (902, "Business", "Prices at the pump are set to climb, say the people who set prices. Prices, again"),
    ]
    away = [
        (77120, "Sci/Tech", "Probe finds wells of ice and, in the gulf between two ridges, oil like slicks of methane"),
        (4013, "World", "Storms shut schools as waters climb in the capital"),
    ]
    sides = [
        [
            row(number, label, body, text, weights={w: sign * s for w, s in weights.items()}, special=sign * 1e-7,
                rest=sign * 8e-8, synonyms=synonyms, percentile=99.99 if sign > 0 else 0.01)
            for number, label, body in rows
        ]
        for sign, rows in ((1, toward), (-1, away))
    ]  # fmt: skip
    asked = query(text, "Business", "Business", *sides, label_source="predicted", probability=0.9997, loss=0.0003)
    found = answer([asked], ["World", "Sports", "Business", "Sci/Tech"], name="agnews", rows=120_000)
    found["options"]["synonyms"] = True
    for word in asked["proponents"][0]["words"]:
        if word["query"] == "shut":  # as if two words met in a part of theirs
            word["via"] = "##ut"
    found["run"]["warnings"] = [
        "The word embeddings did not move in training (frozen): these scores are not TracIn's first-order story."
    ]
    return found


_SYLLABLES = [a + b for a, b in zip("bcdfghklmnprstvwyz", "aeiouaioueioaeuaoa", strict=True)]


def _vocabulary(size: int) -> list[str]:
    chosen = random.Random(7)
    return ["".join(chosen.choices(_SYLLABLES, k=chosen.choice((1, 2, 2, 3, 4)))) for _ in range(size)]


def long_answer(queries: int = 50, words: int = 300, rows: int = 5) -> dict[str, Any]:
    """Queries of long rows, all different, drawn from one long-tailed vocabulary so that they share words."""
    chosen = random.Random(11)
    vocabulary = _vocabulary(6000)
    frequencies = [1 / (rank + 2.7) for rank in range(len(vocabulary))]

    def text() -> str:
        return " ".join(chosen.choices(vocabulary, frequencies, k=words)).capitalize() + "."

    found = []
    number = 0
    for _ in range(queries):
        asked = text()
        sides: list[list[dict[str, Any]]] = []
        for sign in (1, -1):
            side = []
            for _ in range(rows):
                number += 37
                body = text()
                weights = {
                    w: sign * chosen.lognormvariate(-7, 1.6) * chosen.choice((1, 1, 1, -0.3))
                    for w in sorted(set(body.lower().strip(".").split()))
                }
                label = chosen.choice(("ham", "spam"))
                side.append(row(number, label, body, asked, weights=weights, special=sign * 0.001, spread=chosen))
            sides.append(side)
        found.append(query(asked, "spam", "ham", *sides))
    return answer(found, ["ham", "spam"], name="long", rows=50_000)


HOSTILE = [
    "<script>alert('one')</script> free",
    "javascript:alert(1) free &lt;b&gt; &amp; ]]> --> <!-- free",
    "a lone \" quote and a lone ' quote, then </style></script><img src=x onerror=alert(2)> free",
    "free " + "W" * 5000,
    "zero\u200bwidth fr\u200bee free \ufeff free",
    "override \u202egnp.exe free \u2066isolate free",
    "null \0 and lone \ud83d surrogate, line\u2028separator, paragraph\u2029separator, \x1b[31mescape\x1b[0m free",
    "מבצע free לסוף השבוע: התקשרו עכשיו",
    "عرض free لنهاية الأسبوع 🎁 اتصل الآن",
    "家族 👩‍👩‍👧‍👦 free 🇵🇹 👍🏽 e\u0301te\u0301 free",
    "\r\n\r\nfree\r\nlines\n\n\tand tabs",
    "{{ 7*7 }} {% raw %} ${x} free",
]


def hostile_answer() -> dict[str, Any]:
    """Texts, labels and names that try to break out of the page."""
    asked = HOSTILE[0] + " \u202e free"
    weights = {"free": 0.01}
    toward = [
        row(i, "<b>ham</b>", text, asked, weights=weights, special=0.001, id='"><script>x</script>')
        for i, text in enumerate(HOSTILE)
    ]
    away = [row(i + 100, "ham", text, asked, weights={"free": -0.01}, special=-0.001) for i, text in enumerate(HOSTILE)]
    found = answer([query(asked, "<i>spam</i>", "</script>", toward, away)], ["<b>ham</b>", "ham"], name="<u>run</u>")
    found["queries"][0]["notes"] = ["<script>note</script>"]
    found["run"]["warnings"] = ["<script>warning</script>"]
    return found


def pair_answer() -> dict[str, Any]:
    """A premise and a hypothesis; rows of two parts."""
    asked, other = "A man in a red coat plays the cello on a bridge", "A man makes music outside"
    weights = {"man": 0.9, "outside": 4.2, "music": 3.8, "plays": 1.7, "bridge": 0.6, "a": 0.1, "coat": 0.4}
    toward = [
        row(12, "entailment", "Two girls play drums under a bridge", asked, pair="Girls make music outside",
            query_pair=other, weights=weights, special=0.5),
        row(340, "entailment", "A man plays a violin in the park", asked, pair="There is music outside",
            query_pair=other, weights=weights, special=0.3),
    ]  # fmt: skip
    away = [
        row(77, "contradiction", "A man in a coat sleeps on a bench", asked, pair="A man plays music",
            query_pair=other, weights={w: -s for w, s in weights.items()}, special=-0.2, percentile=0.4),
    ]  # fmt: skip
    asked_pair = query(asked, "entailment", "entailment", toward, away, text_pair=other, label_source="predicted")
    return answer([asked_pair], ["entailment", "neutral", "contradiction"], name="snli", rows=9000)


def layers_answer() -> dict[str, Any]:
    """A method over layer gradients: every word meets every other, weak pairs are sums, and so is the whole text."""
    chosen = random.Random(5)
    found = news_answer()
    found["method"], found["run"]["warnings"] = "logra", []
    found["options"] = {"layers": None, "damping": 0.1, "checkpoints": ["checkpoint-32"]}
    (asked,) = found["queries"]
    strong = {"crude": 2.0, "prices": 3.0, "oil": 2.5, "climb": 1.0, "shares": 1.2, "wells": 0.8, "inventories": 0.7}
    for sign, side in ((1, "proponents"), (-1, "opponents")):
        for one in asked[side]:
            one["words"] = _all_pairs(one["text"], asked["text"], strong, sign * 1e-7, chosen)
            specials = [pair["score"] for pair in one["words"] if pair["special"]]
            one["special"], one["score"] = sum(specials), sum(pair["score"] for pair in one["words"])
    asked["proponents"].sort(key=lambda row: -row["score"])
    asked["opponents"].sort(key=lambda row: row["score"])
    asked["summary"] |= {"word": "prices", "word_share": 0.37}
    return found


def _all_pairs(
    text: str, query: str, strong: dict[str, float], unit: float, chosen: random.Random, kept: int = 100
) -> list[dict[str, Any]]:
    """The strongest pairs of a word of the text and a word of the query; the rest and the whole text as sums."""
    pairs = []
    for one in [None, *spans_of(text)]:
        for other in [None, *spans_of(query)]:
            train = "[CLS]" if one is None else text[one[0] : one[1]]
            asked = "[SEP]" if other is None else query[other[0] : other[1]]
            weight = strong.get(train.lower(), 0.2) * strong.get(asked.lower(), 0.2)
            pairs.append(
                {"part": "words", "train": train, "query": asked, "score": unit * weight * chosen.gauss(0.7, 0.5)}
                | {"places": 1, "special": None in (one, other), "synonym": None, "via": None}
                | {"train_spans": [one] if one else [], "query_spans": [other] if other else []}
            )
    pairs.sort(key=lambda pair: -abs(pair["score"]))
    words = [pair for pair in pairs if not pair["special"]]
    sums = [("rest", sum(pair["score"] for pair in words[kept:])), ("text", unit * chosen.gauss(2, 1))]
    none = {"train": "", "query": "", "places": 1, "special": False, "synonym": None, "via": None}
    last = [none | {"part": part, "score": score, "train_spans": [], "query_spans": []} for part, score in sums]
    return words[:kept] + [pair for pair in pairs if pair["special"]] + last


def empty_answer() -> dict[str, Any]:
    """A query that shares nothing with any row."""
    asked = query("Zyxomma", "spam", "ham", [], [], notes=["shares no word with any training row"])
    asked["summary"] = {"push": 0.0, "top_share": None, "top_rows": 0, "word": None, "word_share": None}
    return answer([asked], ["ham", "spam"])


def trial() -> dict[str, Any]:
    """A removal trial, as the demo runs it."""
    return {
        "removed": 160,
        "planted": 160,
        "planted_found": 121,
        "planted_by_chance": 12.8,
        "arms": [
            {"name": "untouched", "accuracy": [0.9412, 0.9448, 0.9394], "rows": 2000},
            {"name": "repaired", "accuracy": [0.9731, 0.9749, 0.9695], "rows": 1840},
            {"name": "random", "accuracy": [0.9394, 0.9466, 0.9376], "rows": 1840},
        ],
        "queries": [
            {
                "text": _SMS[0][0],
                "label": "spam",
                "before": {"predicted": "ham", "probability": 0.07},
                "repaired": {"predicted": "spam", "probability": 0.98},
                "random": {"predicted": "ham", "probability": 0.11},
            },
            {
                "text": _SMS[2][0],
                "label": "spam",
                "before": {"predicted": "ham", "probability": 0.39},
                "repaired": {"predicted": "spam", "probability": 0.91},
                "random": {"predicted": "spam", "probability": 0.52},
            },
            {
                "text": "Dinner is free on Friday if you call before noon, said the canteen",
                "label": "ham",
                "before": {"predicted": "ham", "probability": 0.71},
                "repaired": {"predicted": "spam", "probability": 0.44},
                "random": {"predicted": "ham", "probability": 0.69},
            },
        ],
        "verdict": "Removing what Headwater pointed at helped: +3.1 points of accuracy over untouched, on the same "
        "3 seeds; a random removal of the same size did nothing.",
    }
