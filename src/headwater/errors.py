"""The errors a user can mend. Each message says what is wrong, where (file, row, column), and what to do."""


class HeadwaterError(Exception):
    """Base of all errors that Headwater raises on purpose; faces print it as one line, without a traceback."""


class UsageError(HeadwaterError):
    """The call itself is off: an unknown method, an option that does not fit (exit code 2)."""


class DataError(HeadwaterError):
    """A corpus or a file of queries cannot be used as it is."""

    @classmethod
    def at(
        cls, where: str, what: str, *, row: int | None = None, column: str | None = None, fix: str = ""
    ) -> "DataError":
        """Say `what` is wrong in `where`; rows are counted from 1 in messages, as editors count lines."""
        place = where
        if row is not None:
            place += f", row {row:,}"
        if column is not None:
            place += f", column {column!r}"
        return cls(f"{place}: {what}" + (f" {fix}" if fix else ""))


class RunError(HeadwaterError):
    """A run's folder lacks something, or what it holds does not fit together."""


class ModelError(HeadwaterError):
    """A model cannot be loaded, or its architecture is not one whose gradients we can capture."""


class StoreError(HeadwaterError):
    """An index is missing, incomplete, damaged, of a newer format, or of another run."""


class HeadwaterWarning(UserWarning):
    """Something that does not stop the work but changes what its result means."""
