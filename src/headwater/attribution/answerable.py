"""Which methods an index can answer by as it stands, nothing more being built."""

from __future__ import annotations

from collections.abc import Sequence

from headwater.attribution.members import Member
from headwater.attribution.question import AskedQuestion
from headwater.errors import StoreError
from headwater.methods import Method, all_methods
from headwater.runs import text_task


def answerable(members: Sequence[Member]) -> tuple[Method, ...]:
    """Return the methods whose files every run of an index has, in the order of the registry."""
    classes = text_task(members[0].run.task) is None
    known = [method for method in all_methods() if classes or not method.classes]
    return tuple(method for method in known if all(_has(member, method) for member in members))


def _has(member: Member, method: Method) -> bool:
    if method.need == "layers":
        try:
            return bool(AskedQuestion([member], [], [], method).layer_names(method.make_options()))
        except StoreError:
            return False
    stores = {"tokens": member.tokens, "representations": member.representations}
    return method.need not in stores or stores[method.need] is not None
