"""Reading rows from wherever they are into an Arrow table, with errors that name the row.

Files are read line by line with Python's own parsers, so that a broken line can be shown; every column the user has
is kept. Nothing here knows which column is the text.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.errors import DataError

COLUMNS_KEY = b"headwater.columns"
"""Schema metadata of a saved corpus: which column is what."""

MIXED_KEY = b"headwater.mixed"
"""Field metadata of a column whose values have no common type: each is kept as its JSON text."""

_JSON_LINES = (".jsonl", ".ndjson", ".json-lines")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_FORMATS = ".jsonl, .ndjson, .csv, .tsv (each also with .gz) or .parquet"
_HUB = "hub:"


def read_table(source: Any) -> tuple[pa.Table, str]:
    """Read any source that `Corpus.read` names; returns the table and the name that messages use. Raises DataError."""
    if isinstance(source, str) and source.startswith(_HUB):
        return _from_hub(source.removeprefix(_HUB))
    if isinstance(source, str | Path):
        return _from_file(Path(source)), Path(source).name
    if isinstance(source, pa.Table):
        return _plain(source, "table"), "table"
    library = type(source).__module__.partition(".")[0]
    if library == "datasets":
        return _from_dataset(source), "dataset"
    if library == "pandas":
        return _from_frame(source), "data frame"
    if isinstance(source, list):
        return _from_rows(source, "rows"), "rows"
    raise DataError(
        f"a corpus cannot be read from {type(source).__name__}. Give a file ({_FORMATS}), a list of dicts, "
        "a datasets.Dataset, a pandas.DataFrame or a pyarrow.Table."
    )


def columns_of(table: pa.Table) -> dict[str, Any] | None:
    """The columns mapping that `Corpus.save` put into a table's metadata, if any."""
    saved = (table.schema.metadata or {}).get(COLUMNS_KEY)
    return None if saved is None else json.loads(saved)


def _from_file(path: Path) -> pa.Table:
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    packed = path.suffix == ".gz"
    suffix = Path(path.stem).suffix if packed else path.suffix
    if suffix == ".parquet" and not packed:
        return _from_parquet(path)
    if suffix in _JSON_LINES:
        return _from_rows(_json_rows(path, packed), path.name)
    if suffix in _SEPARATORS:
        return _from_separated(path, packed, _SEPARATORS[suffix])
    raise DataError(f"{path}: the name must end in {_FORMATS}.")


def _lines(path: Path, packed: bool) -> Iterator[str]:
    """Lines with their ends, decoded one by one so that a byte which is not UTF-8 has a line number."""
    number = 0
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}, line {number:,}: not UTF-8 ({error.reason}). Save it as UTF-8.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path.name}: the gzip file is damaged or cut short ({error}).") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from None


def _json_rows(path: Path, packed: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    blank = 0
    for number, line in enumerate(_lines(path, packed), start=1):
        if not line.strip():
            blank = blank or number
            continue
        if blank:
            raise DataError.at(path.name, "the line is empty.", row=blank, fix="Only the end may hold empty lines.")
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            what = f"not valid JSON ({error.msg}, at character {error.pos + 1})."
            raise DataError.at(path.name, what, row=number) from None
        except RecursionError:
            raise DataError.at(path.name, "not valid JSON (nested too deep).", row=number) from None
        if not isinstance(row, dict):
            what = f"not a JSON object but {type(row).__name__}."
            raise DataError.at(path.name, what, row=number, fix='Each line must be like {"text": ..., "label": ...}.')
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: the file holds nothing but blank lines.")
    return rows


def _from_separated(path: Path, packed: bool, separator: str) -> pa.Table:
    limit = csv.field_size_limit(sys.maxsize)
    reader = csv.reader(_lines(path, packed), delimiter=separator, strict=True)
    rows: list[list[str]] = []
    try:
        header = next(reader, [])
        if not header:
            raise DataError(f"{path.name}: the first line must name the columns.")
        _check_names(header, path.name)
        blank = 0
        for number, fields in enumerate(reader, start=1):
            if not fields:
                blank = blank or number
                continue
            if blank:
                fix = "Only the end may hold empty lines."
                raise DataError.at(path.name, "the line is empty.", row=blank, fix=fix)
            if len(fields) != len(header):
                what = f"{len(fields)} fields where the header has {len(header)} (line {reader.line_num:,})."
                raise DataError.at(path.name, what, row=number, fix="Quote fields that hold separators or line ends.")
            rows.append(fields)
    except csv.Error as error:
        what = f"not valid {path.suffix} ({error}; line {reader.line_num:,})."
        raise DataError.at(path.name, what, row=len(rows) + 1, fix="Are quotes doubled inside quoted fields?") from None
    finally:
        csv.field_size_limit(limit)
    if not rows:
        raise DataError(f"{path}: the file holds a header but no rows.")
    return pa.table({name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(header)})


def _from_parquet(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a whole parquet file ({str(error).splitlines()[0]}).") from None
    return _plain(table, path.name)


def _from_dataset(source: Any) -> pa.Table:
    import datasets

    if not isinstance(source, datasets.Dataset):
        kind = type(source).__name__
        raise DataError(f"dataset: a {kind} cannot be read as it is. Give one split, like dataset['train'].")
    if len(source) == 0:
        raise DataError("dataset: no rows. Give a corpus with at least one.")
    table = source.with_format("arrow")[:]
    names = {n: f.names for n, f in source.features.items() if isinstance(f, datasets.ClassLabel)}
    return _plain(table, "dataset", names)


def _from_frame(frame: Any) -> pa.Table:
    names = [str(name) for name in frame.columns]
    _check_names(names, "data frame")
    columns = []
    for place, name in enumerate(names):
        column = frame.iloc[:, place]
        try:
            array = pa.array(column, from_pandas=True)
            columns.append((pa.field(name, array.type), array))
        except (pa.ArrowException, UnicodeEncodeError):
            missing = column.isna().tolist()
            values = [None if gone else v for v, gone in zip(column.tolist(), missing, strict=True)]
            columns.append(_array(values, name, "data frame"))
    return _plain(_assemble(columns), "data frame")


def _from_hub(name: str) -> tuple[pa.Table, str]:
    import datasets

    path, _, split = name.partition(":")
    try:
        source = datasets.load_dataset(path, split=split or "train")
    except Exception as error:  # the hub client raises whatever its transport raised
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"hub:{name}: cannot be loaded ({reason})") from error
    return _from_dataset(source), name


def _from_rows(rows: list[Any], name: str) -> pa.Table:
    order: dict[str, None] = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError.at(name, f"not a dict but {type(row).__name__}.", row=number)
        order.update(dict.fromkeys(row))
    names = [str(key) for key in order]
    _check_names(names, name)
    columns = [[row.get(key) for row in rows] for key in order]
    return _assemble([_array(values, text, name) for values, text in zip(columns, names, strict=True)])


def _assemble(columns: list[tuple[pa.Field, pa.Array]]) -> pa.Table:
    return pa.Table.from_arrays([array for _, array in columns], schema=pa.schema([field for field, _ in columns]))


def _array(values: list[Any], column: str, name: str) -> tuple[pa.Field, pa.Array]:
    """Python values as an Arrow column; where they have no common type, as the JSON text of each (MIXED_KEY)."""
    try:
        array = pa.array(values)
        if not _has_empty_struct(array.type):
            return pa.field(column, array.type), array
    except UnicodeEncodeError:
        row = next(i for i, value in enumerate(values) if not _encodable(value))
        what = "holds half of a surrogate pair, which is no character."
        raise DataError.at(name, what, row=row + 1, column=column, fix="Mend or drop the row.") from None
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        pass
    texts = [None if v is None else json.dumps(v, ensure_ascii=False, default=str) for v in values]
    return pa.field(column, pa.string(), metadata={MIXED_KEY: b"1"}), pa.array(texts, pa.string())


def _has_empty_struct(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind) and kind.num_fields == 0:
        return True
    return any(_has_empty_struct(kind.field(i).type) for i in range(kind.num_fields))


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _plain(table: pa.Table, name: str, class_names: dict[str, list[str]] | None = None) -> pa.Table:
    """Decode dictionary columns and turn ClassLabel numbers into their names (-1, unlabelled, into null)."""
    _check_names(table.column_names, name)
    class_names = class_names if class_names is not None else _class_names(table)
    for place, field in enumerate(table.schema):
        column = table.column(place)
        if pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, column.cast(field.type.value_type))
        elif field.name in class_names and pa.types.is_integer(field.type):
            names = class_names[field.name]
            named = [None if v is None or v < 0 else names[v] for v in column.to_pylist()]
            table = table.set_column(place, field.name, pa.array(named, pa.string()))
    return table


def _class_names(table: pa.Table) -> dict[str, list[str]]:
    """Names of the ClassLabel columns that `datasets` notes in the metadata of its parquet files."""
    noted = (table.schema.metadata or {}).get(b"huggingface")
    features = json.loads(noted).get("info", {}).get("features", {}) if noted else {}
    return {
        name: feature["names"]
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
    }


def _check_names(names: list[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{where}: there are two columns called {name!r}.")
        if not _encodable(name):
            raise DataError(f"{where}: the column name {name!r} holds half of a surrogate pair.")
