"""Which methods an index can answer by as it stands, nothing more being built, and with which options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headwater.attribution.members import Member
from headwater.attribution.question import AskedQuestion
from headwater.errors import StoreError, UsageError
from headwater.methods import Method, all_methods
from headwater.runs import text_task


def answerable(members: Sequence[Member]) -> tuple[Method, ...]:
    """Return the methods whose files every run of an index has, in the order of the registry."""
    classes = text_task(members[0].run.task) is None
    known = [method for method in all_methods() if classes or not method.classes]
    return tuple(method for method in known if all(_has(member, method) for member in members))


def options_of(members: Sequence[Member], method: Method, given: Mapping[str, Any]) -> Any:
    """Make the method's options; an index that keeps few words a row answers with as many, on both sides.

    Raises UsageError: an option that the method has not, or more words than the index keeps.
    """
    made = method.make_options(**given)
    kept = [member.tokens.manifest.max_words for member in members if member.tokens is not None]
    least = min((words for words in kept if words is not None), default=None)
    if method.need != "tokens" or least is None or (made.max_words is not None and made.max_words <= least):
        return made
    if made.max_words is None:
        return method.make_options(**{**given, "max_words": least})
    raise UsageError(f"this index keeps {least} words a row and checkpoint; it cannot answer with {made.max_words}.")


def _has(member: Member, method: Method) -> bool:
    if method.need == "layers":
        try:
            return bool(AskedQuestion([member], [], [], method).layer_names(method.make_options()))
        except StoreError:
            return False
    stores = {"tokens": member.tokens, "representations": member.representations}
    return method.need not in stores or stores[method.need] is not None
