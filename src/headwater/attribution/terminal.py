"""An answer in a terminal: a panel a query, two tables of rows, lit words by style.

Hue and underline say the sign where there is colour (blue and underlined pushes toward, orange and italic away);
without colour (NO_COLOR, a pipe, a plain terminal) lit words carry a plus or minus instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.style import Style
from rich.table import Table
from rich.text import Text

from headwater.attribution.numerals import MINUS, plural
from headwater.attribution.sentence import Bit
from headwater.attribution.trial import Arm, Trial, TrialQuery, trial_view
from headwater.attribution.view import Answer, Card, Piece, Query, View, clean, view

TOWARD = "#2f86e0"
AWAY = "#d2700f"
_BAR = 12  # characters of a probability's bar

# Control characters could move the cursor or recolour the screen, and direction overrides reorder it: shown, not sent.
_UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028\u2029\u202a-\u202e\u2060\u2066-\u2069\ufeff]")


def render_terminal(
    answer: Answer,
    console: Console,
    *,
    hide_training_text: bool = False,
    k: int | None = None,
    trial: Mapping[str, Any] | None = None,
) -> None:
    """Print an answer (`Attributions.to_dict()`), and a removal trial (see `headwater.attribution.trial`) if given."""
    shown = view(answer, k=k, hide_training_text=hide_training_text)
    colour = has_colour(console)
    for warning in shown.warnings:
        console.print(Text.assemble(("Warning: ", "bold"), visible(warning)))
    for query in shown.queries:
        console.print(query_panel(query, shown, colour))
    if not shown.queries:
        console.print(Text("No queries: there is nothing to show."))
    if trial:
        console.print(trial_panel(trial_view(clean(trial))))


def has_colour(console: Console) -> bool:
    """Whether this console shows colours."""
    return console.color_system is not None and not console.no_color


def query_panel(query: Query, shown: View, colour: bool) -> RenderableType:
    """One query: its text, the sentence, rows that pushed toward its label and away from it."""
    parts: list[RenderableType] = [_words(pieces, colour) for pieces in query.parts]
    parts += [Text(), Text.assemble(*map(_bit, query.sentence))]
    parts += [Text(f"Note: {visible(note)}", style="dim") for note in query.notes]
    for cards, sign, heading in ((query.toward, "+", "Pushed toward"), (query.away, MINUS, "Pushed away from")):
        if cards:
            total = query.scale(sum(card.score for card in cards))
            title = Text.assemble(
                (f"{sign} {heading} ", "bold"), (visible(query.label), "bold"), (f"  {total} {query.scale.unit}", "dim")
            )
            parts += [Text(), title, _table(cards, query, shown, colour)]
    many = f" of {len(shown.queries)}" if len(shown.queries) > 1 else ""
    title = Text.assemble((f"Query {query.number}{many}", "bold"))
    facts = Text("  ".join(f"{name} {visible(value)}" for name, value in query.facts), style="dim")
    return Panel(Group(*parts), title=title, title_align="left", subtitle=facts, subtitle_align="left", padding=(0, 1))


def _table(cards: tuple[Card, ...], query: Query, shown: View, colour: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), expand=True, show_edge=False)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("pctl", justify="right", no_wrap=True, style="dim")
    table.add_column("row", justify="right", no_wrap=True)
    table.add_column("label", overflow="fold", max_width=20)
    table.add_column("positions" if shown.hidden else "text", ratio=1, overflow="fold")
    for card in cards:
        style = _style(card.score >= 0, colour, lit=False)
        row = Text(f"{card.example:,}")
        if card.id is not None:
            row.append(f"\n{_short(visible(card.id), 16)}", "dim")
        body = _positions(card, colour) if shown.hidden else Text("\n").join(_words(p, colour) for p in card.parts)
        tail = _tail(card, shown)
        label = "" if card.label is None else visible(card.label)
        table.add_row(Text(card.scale(card.score), style), card.percentile, row, label, Group(body, tail))
    return table


def _tail(card: Card, shown: View) -> Text:
    hub = f"{shown.hub(card)}; " if card.hub > 1 else ""
    if not card.terms:
        return Text(hub.rstrip("; "), style="dim")
    added = " + ".join(f"{term.name} {card.scale.show(term.units)}" for term in card.terms[:-1])
    return Text(f"{hub}{added} = {card.scale.show(card.terms[-1].units)}", style="dim")


def _positions(card: Card, colour: bool) -> Text:
    text = Text(f"{plural(card.words, 'word')}; lit at")
    for position in card.positions:
        text.append(" ")
        text.append_text(_lit(str(position.word), position.tone, colour))
        text.append(f"×{position.places}" if position.places > 1 else "", "dim")
    return text


def _words(pieces: tuple[Piece, ...], colour: bool) -> Text:
    text = Text()
    for piece in pieces:
        if piece.kind == "gap":
            text.append(f"[{piece.label}] ", "dim italic")
        elif piece.kind == "lit":
            text.append_text(_lit(piece.text, piece.tone, colour))
            spaced = "~" in piece.note or "× " in piece.note  # a partner's name; "×3" and "##ing" stand close
            text.append(f" {visible(piece.note)}" if spaced else piece.note, "dim")
        else:
            text.append(visible(piece.text))
    return text


def _lit(word: str, tone: str, colour: bool) -> Text:
    toward = tone.startswith("p")
    sign = "" if colour else "+" if toward else "-"
    return Text(sign + visible(word), style=_style(toward, colour))


def _style(toward: bool, colour: bool, lit: bool = True) -> Style:
    if not colour:
        return Style(bold=lit, underline=lit)
    return Style(color=TOWARD if toward else AWAY, bold=True, underline=lit and toward, italic=lit and not toward)


def _bit(bit: Bit) -> tuple[str, str]:
    return visible(bit.text), {"plain": "", "label": "bold", "word": "bold italic", "number": "bold"}[bit.kind]


def visible(text: str) -> str:
    """The text with control and direction characters named, so that it cannot drive the terminal."""
    return _UNSAFE.sub(_named, text.replace("\r\n", "\n").replace("\t", "    "))


def _named(match: re.Match[str]) -> str:
    return f"<U+{ord(match[0]):04X}>"


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def trial_panel(trial: Trial) -> RenderableType:
    """A removal trial: what was found, accuracy by arm, the queries before and after."""
    parts: list[RenderableType] = []
    if trial.verdict:
        parts += [Text(visible(trial.verdict), style="bold"), Text()]
    if trial.planted is not None and trial.found is not None:
        chance = "" if trial.chance is None else f" (by chance {trial.chance:.3g})"
        parts += [
            Text.assemble(
                f"Among the {plural(trial.removed, 'row')} removed: ",
                (f"{trial.found:,} of the {trial.planted:,}", "bold"),
                f" planted errors{chance}.",
            ),
            Text(),
        ]
    if trial.arms:
        parts.append(_arms(trial.arms))
    if trial.queries:
        parts += [Text(), _outcomes(trial.queries)]
    return Panel(Group(*parts), title=Text("Before and after", style="bold"), title_align="left", padding=(0, 1))


def _arms(arms: tuple[Arm, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("arm")
    table.add_column("rows", justify="right", style="dim")
    table.add_column("test accuracy", justify="right")
    table.add_column("points", justify="right")
    table.add_column("by seed", style="dim")
    for arm in arms:
        style = "bold" if arm.name == "repaired" else ""
        rows = arm.rows.removesuffix(" rows").removesuffix(" row")
        table.add_row(visible(arm.name), rows, arm.mean, arm.change, "  ".join(arm.values), style=style)
    return table


def _outcomes(queries: tuple[TrialQuery, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, expand=True)
    table.add_column("query", ratio=1, overflow="fold")
    table.add_column("true label", overflow="fold")
    for state in queries[0].states:
        table.add_column(visible(state.name), overflow="fold")
    for query in queries:
        table.add_row(visible(_short(query.text, 120)), visible(query.label), *_states(query))
    return table


def _states(query: TrialQuery) -> Iterator[Text]:
    for state in query.states:
        mark = "✓" if state.right else "✗"
        text = Text(f"{mark} {visible(state.predicted)} {state.probability}", style="bold" if state.right else "")
        if query.outcome and state.name == "repaired":
            text.append(f" {query.outcome}", "italic")
        filled = round(_BAR * state.share)
        text.append(f"\n{'━' * filled}", "not bold")
        text.append("─" * (_BAR - filled), "dim not bold")
        yield text
