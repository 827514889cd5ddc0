"""`headwater verify` names every damaged file."""

from collections.abc import Callable
from pathlib import Path

from cli.conftest import everything_in, headwater


def test_a_whole_index_says_what_was_read(made: Path) -> None:
    told = headwater("verify", made / "run", "--json").json
    index = made / "run" / "index"
    read = {name: size for name, size in everything_in(index).items() if name.endswith((".safetensors", ".parquet"))}
    assert told["ok"] and told["problems"] == []
    assert told["files"] == len(read) and told["bytes"] == sum(read.values())
    shown = headwater("verify", index)
    assert shown.code == 0 and shown.stdout.startswith("OK") and f"{len(read)} files" in shown.stdout


def test_every_damaged_file_is_named(copied: Callable[[], Path]) -> None:
    index = copied() / "index"
    first, second = sorted(index.glob("segments/*/*.safetensors"))
    data = bytearray(first.read_bytes())
    data[-5] ^= 1
    first.write_bytes(data)
    second.write_bytes(second.read_bytes()[:-10])
    (index / "examples.parquet").unlink()
    called = headwater("verify", index)
    assert called.code == 1 and called.stdout == "" and "Traceback" not in called.stderr
    for path, said in ((first, "checksum"), (second, "checksum"), (index / "examples.parquet", "cannot be read")):
        (line,) = [line for line in called.stderr.splitlines() if f"{path}:" in line]
        assert said in line
    told = headwater("verify", index, "--json")
    assert told.code == 1 and told.json["ok"] is False and len(told.json["problems"]) >= 3


def test_a_damaged_manifest_is_an_error(copied: Callable[[], Path]) -> None:
    manifest = copied() / "index" / "manifest.json"
    manifest.write_text(manifest.read_text()[:100])
    assert "damaged manifest" in headwater("verify", manifest.parent).error
    manifest.write_text('{"format": 99}')
    assert "Upgrade Headwater" in headwater("verify", manifest.parent).error
