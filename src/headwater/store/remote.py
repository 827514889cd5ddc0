"""Indexes in buckets: a URL that fsspec knows (s3://, gs://, memory://, ...), mirrored in a folder of this machine.

Files are sent when they are whole, manifests last, after every file that they name; a bucket shows an object when it is
whole or not at all. What is fetched is compared with the manifest's checksum, and kept: a file that is in the mirror as
the manifest says is not fetched again. A bucket has no lock: that one process builds at a time is the user's to see to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from headwater.errors import HeadwaterError, StoreError, UsageError
from headwater.files import atomic_file, digest, file_digest, read_json
from headwater.store.manifest import NAME, FileEntry

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)")  # one slash too: that is what a Path makes of two
_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
"""Protocols whose objects appear whole or not at all. Elsewhere a file is sent under another name and moved."""

_SEGMENT = ".safetensors"


def place_of(place: str | Path) -> tuple[Path, Remote | None]:
    """Return the folder to work in, and where it is mirrored, if `place` is a URL; file:// is a folder."""
    found = _URL.fullmatch(str(place))
    if found is None:
        return Path(place), None
    if found[1] in ("file", "local"):
        return Path("/" + found[2]), None
    remote = Remote(f"{found[1]}://{found[2]}")
    return remote.folder, remote


class Remote:
    """An index at a URL. Raises UsageError where fsspec lacks what the protocol needs, StoreError.

    The mirror lies in $HEADWATER_CACHE, or ~/.cache/headwater.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise UsageError(f"{url}: {error}. For s3:// : pip install 'headwater[s3]'.") from None
        except Exception as error:  # some protocols connect at once; their errors have no common base
            raise StoreError(f"{self.url}: {type(error).__name__}: {error}") from error
        protocols = self._files.protocol
        self._whole = not _WHOLE.isdisjoint([protocols] if isinstance(protocols, str) else protocols)
        cache = os.environ.get("HEADWATER_CACHE") or Path.home() / ".cache" / "headwater"
        self.folder = Path(cache) / digest([self.url])

    def has(self, name: str) -> bool:
        """Is there a file of this name?"""
        with self._said():
            self._files.invalidate_cache()
            return bool(self._files.isfile(self._at(name)))

    def send(self, path: Path, name: str) -> None:
        """Send a file, which appears there whole or not at all. Raises StoreError."""
        with self._said():
            if self._whole:
                self._files.put_file(str(path), self._at(name))
            else:
                self._files.makedirs(self._files._parent(self._at(name)), exist_ok=True)
                self._files.put_file(str(path), self._at(name) + ".part")
                self._files.mv(self._at(name) + ".part", self._at(name))
            self._files.invalidate_cache()
            size = self._files.info(self._at(name))["size"]
        if size != path.stat().st_size:
            raise StoreError(f"{self.url}/{name}: {size:,} bytes arrived, not {path.stat().st_size:,}. Try again.")

    def fetch(self, name: str, path: Path, entry: FileEntry | None = None) -> None:
        """Fetch a file, and compare it with what the manifest says, if that is known. Raises StoreError."""
        with atomic_file(path) as temporary:
            with self._said():
                self._files.get_file(self._at(name), str(temporary))
            if entry is not None and _entry(temporary) != entry:
                raise StoreError(f"{self.url}/{name}: its bytes are not those that the manifest names: damaged.")

    def pull(self, *, segments: bool = True) -> bool:
        """Bring the mirror up to date: files that are missing or differ from the manifests, then the manifests.

        Returns whether there is anything at the URL: a mirror outlives what it is one of. Two processes may do this at
        a time: new manifests wait in a folder of each one's own.

        Without `segments` they are not fetched; those in the mirror that differ from the manifests are deleted.
        What no manifest names, because a build is unfinished, is fetched anew: the build reads it before it is kept.
        """
        names = [name for name in self._listing() if not name.endswith(".part")]
        if not names:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".new-", dir=self.folder) as new:
            self._pull(names, Path(new), segments)
        return True

    def _pull(self, names: Sequence[str], new: Path, segments: bool) -> None:
        manifests = [name for name in names if _is_manifest(name)]
        wanted: dict[str, FileEntry] = {}
        checked: dict[str, FileEntry] = {}
        for name in manifests:
            self.fetch(name, new / name)
            wanted |= _entries(name, new / name)
            if (self.folder / name).is_file():
                checked |= _entries(name, self.folder / name)
        for name in names:
            if name in manifests or self._is_here(name, wanted.get(name), checked.get(name)):
                continue
            if segments or not name.endswith(_SEGMENT):
                self.fetch(name, self.folder / name, wanted.get(name))
            else:
                (self.folder / name).unlink(missing_ok=True)
        for name in manifests:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).replace(self.folder / name)

    def _is_here(self, name: str, wanted: FileEntry | None, checked: FileEntry | None) -> bool:
        """Is the mirror's file the one that is wanted? `checked` is what it was when it was fetched."""
        path = self.folder / name
        if wanted is None or not path.is_file() or path.stat().st_size != wanted.bytes:
            return False
        return wanted == checked or _entry(path) == wanted

    def push(self) -> None:
        """Send what is in the mirror and not there, manifests last. Raises StoreError."""
        sizes = self._listing()
        names = [str(path.relative_to(self.folder)) for path in sorted(self.folder.rglob("*")) if path.is_file()]
        names = [name for name in names if _NAME.fullmatch(name) and not name.endswith(".part")]
        for name in sorted(names, key=_is_manifest):
            path = self.folder / name
            if not name.endswith(_SEGMENT) or sizes.get(name) != path.stat().st_size:
                self.send(path, name)

    def _listing(self) -> dict[str, int]:
        """Return the files there, by name, with their sizes."""
        with self._said():
            self._files.invalidate_cache()
            found: Mapping[str, Any] = self._files.find(self._root, detail=True)
        start = self._root.rstrip("/") + "/"
        names = {path.removeprefix(start): int(info["size"]) for path, info in found.items()}
        return {name: size for name, size in names.items() if _NAME.fullmatch(name)}

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Turn the errors of whatever stands behind the URL, which have no common base, into ours."""
        try:
            yield
        except HeadwaterError:
            raise
        except Exception as error:
            raise StoreError(f"{self.url}: {type(error).__name__}: {error}") from error


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")  # stays within its folder; no .lock


def _is_manifest(name: str) -> bool:
    return name.rpartition("/")[2] == NAME


def _entry(path: Path) -> FileEntry:
    return FileEntry(path.stat().st_size, file_digest(path))


def _entries(name: str, path: Path) -> dict[str, FileEntry]:
    """Return what a manifest says of its files, by their names in the index; it is checked when it is opened."""
    base = name.removesuffix(NAME)
    try:
        files = read_json(path)["files"].items()
        return {f"{base}{file}": FileEntry(int(entry["bytes"]), str(entry["xxh3"])) for file, entry in files}
    except (HeadwaterError, AttributeError, KeyError, TypeError, ValueError):
        raise StoreError(f"{path.parent}: the manifest {name} is damaged.") from None
