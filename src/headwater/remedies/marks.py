"""Marks: what people decided of which row, kept in RUN/headwater/marks.sqlite at once; exported as a repair plan.

One mark a row, since a plan may hold one accepted action a row. Every write gets the next version of the whole file
and names the version of the row that its writer saw: two tabs cannot overwrite each other unseen, and a tab asks for
what is newer than the version it knows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from headwater.errors import DataError, HeadwaterError
from headwater.files import can_write
from headwater.remedies.plan import Header, Plan, Repair, parse_plan

_TABLE = """
CREATE TABLE IF NOT EXISTS marks (
    row INTEGER PRIMARY KEY, version INTEGER NOT NULL UNIQUE, by_hand INTEGER NOT NULL, record TEXT NOT NULL)
"""
_WAIT = 10.0  # seconds for another process' write to end


@dataclass(frozen=True)
class Mark:
    """What shall be done to a row. `version` grows with every write to any row; `by_hand`: somebody looked at it."""

    repair: Repair
    version: int
    by_hand: bool = False

    @property
    def row(self) -> int:
        """The row, from 0."""
        return _row(self.repair)


class ConflictError(HeadwaterError):
    """A write whose writer had not seen the latest mark. `here`: what stands there; `wanted`: what was refused."""

    def __init__(self, here: Mark | None, wanted: Repair) -> None:
        self.here, self.wanted = here, wanted
        stands = "no mark" if here is None else f"{here.repair.action}, {here.repair.status}"
        asked = f"{wanted.action}, {wanted.status}"
        super().__init__(f"Row {wanted.row:,} was marked elsewhere meanwhile: {stands}. Not written: {asked}.")


class Marks:
    """The marks of one run. Safe for several threads and processes: each call opens the file for itself."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, since: int = 0) -> dict[int, Mark]:
        """Return the marks by row, in the order of rows; only those written after version `since`."""
        if not self.path.exists():
            return {}
        with self._open(self._readable()) as database:
            asked = "SELECT version, by_hand, record FROM marks WHERE version > ? ORDER BY row"
            marks = [self._mark(*found) for found in database.execute(asked, (since,))]
        return {mark.row: mark for mark in marks}

    def suggest(self, plan: Plan) -> int:
        """Take a plan's suggestions for rows that nobody decided on, and return how many were new or changed.

        A row that another audit suggested already keeps that suggestion; the same audit may change its own.
        """
        count = 0
        with self._writing() as database:
            for repair in plan.repairs:
                here = self._get(database, _row(repair))
                if repair.status != "suggested" or (here and here.repair.status != "suggested"):
                    continue
                if here and (here.repair == repair or here.repair.source != repair.source):
                    continue
                self._put(database, repair, by_hand=False)
                count += 1
        return count

    def write(self, repair: Repair, seen: int) -> Mark:
        """Write one mark that somebody made. `seen`: the version of the row's mark that they saw, 0 for none.

        Raises ConflictError if another stands there by now, DataError for a repair that no plan could hold.
        """
        Plan((repair,))
        with self._writing() as database:
            here = self._get(database, _row(repair))
            if (here.version if here else 0) != seen:
                raise ConflictError(here, repair)
            return self._put(database, repair, by_hand=repair.status != "suggested")

    def accept(self, repairs: Iterable[Repair]) -> int:
        """Accept these as a whole, all or none; rows that were decided on already stay. Return how many were new."""
        count = 0
        with self._writing() as database:
            for repair in repairs:
                here = self._get(database, _row(repair))
                if here is None or here.repair.status == "suggested":
                    self._put(database, replace(repair, status="accepted"), by_hand=False)
                    count += 1
        return count

    def plan(self, header: Header | None = None) -> Plan:
        """Return the accepted marks in the order of rows. Equal marks give equal bytes, in whatever order made."""
        kept = (mark.repair for mark in self.read().values() if mark.repair.status == "accepted")
        return Plan(tuple(kept), header, str(self.path))

    def _readable(self) -> str:
        """What SQLite opens to read. Beside a file of this kind it makes two others, even to read it; where they cannot
        be made, and are not there, nobody writes, and the file can be read as it lies there."""
        uri = self.path.resolve().as_uri()
        beside = self.path.with_name(f"{self.path.name}-wal")
        return uri if can_write(self.path.parent) or beside.exists() else f"{uri}?immutable=1"

    @contextmanager
    def _open(self, uri: str | None = None) -> Iterator[sqlite3.Connection]:
        place = uri or self.path
        try:
            with closing(sqlite3.connect(place, timeout=_WAIT, isolation_level=None, uri=bool(uri))) as database:
                yield database
        except sqlite3.Error as error:
            raise DataError(f"{self.path}: the marks cannot be read or written ({error}).") from None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Hold the file's one write lock; what fails inside leaves nothing written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(_TABLE)
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")

    def _get(self, database: sqlite3.Connection, row: int) -> Mark | None:
        found = database.execute("SELECT version, by_hand, record FROM marks WHERE row = ?", (row,)).fetchone()
        return None if found is None else self._mark(*found)

    def _put(self, database: sqlite3.Connection, repair: Repair, *, by_hand: bool) -> Mark:
        (latest,) = database.execute("SELECT coalesce(max(version), 0) FROM marks").fetchone()
        mark = Mark(replace(repair, line=0), latest + 1, by_hand)
        values = (mark.row, mark.version, by_hand, Plan((repair,)).lines())
        database.execute("INSERT OR REPLACE INTO marks (row, version, by_hand, record) VALUES (?, ?, ?, ?)", values)
        return mark

    def _mark(self, version: int, by_hand: int, record: str) -> Mark:
        (repair,) = parse_plan(record.encode(), str(self.path)).repairs
        return Mark(replace(repair, line=0), version, bool(by_hand))


def _row(repair: Repair) -> int:
    if repair.row is None:
        raise DataError(f'{repair.place}: a mark needs "row".')
    return repair.row
