"""The workbench under load: 50 users with 2 to 5 s of think time, for 60 s, on a server process of its own.

Of 100 visits 80 are pages (predictions in all orders, corpus and its rows, words and their pages, worklist, jobs, the
form), 15 explain a held-out row, 5 a text that was never asked before. First one user opens each kind of page, which is
then computed and kept; then asks alone, new rows only: that is the warm time of the Why? page. A page that says what it
waits for (202) is followed until it comes, and timed so. A 503 that says when to come again is counted and obeyed; any
other 5xx, or an answer that does not come, is a failure (exit code 1).

    python benchmarks/load.py [--rows 10000] [--users 50] [--seconds 60] [--model minilm]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from report import WORK, heading, quiet_environment, save, table, use_threads

HELD = 500  # rows that are asked about
KINDS = {"page": 80, "stored query": 15, "typed query": 5}
THINK = (2.0, 5.0)  # seconds
TOKEN = "load"
FIRST = ("/predictions", "/corpus", "/words", "/corpus/0", "/worklist", "/jobs")
LOOK = 0.3  # seconds between two looks at a page that is being made
ALONE = 40  # queries of one user


@dataclass
class Seen:
    """What the users met."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    lost: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--model", choices=["minilm", "textcnn"], default="minilm")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    use_threads(1)
    run, held = made(options)
    print(heading(f"Load: {options.model}, {options.rows:,} rows, {options.users} users, {options.seconds:g} s"))
    server = subprocess.Popen(
        [sys.executable, "-m", "headwater", "serve", run, "--queries", held, "--no-browser", "--port", "0", "--json"],
        env={**quiet_environment(1), "HEADWATER_TOKEN": TOKEN},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        told = json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")
        found = asyncio.run(visits(f"http://127.0.0.1:{told['port']}", server.pid, options))
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(20)
    report(found, options)


def made(options: argparse.Namespace) -> tuple[Path, Path]:
    """Make the run and its index, or find them; and the file of texts that are asked about."""
    place = WORK / "runs" / f"load-{options.model}-{options.rows}"
    held = place / "held.jsonl"
    if not held.exists():
        from headwater import Index
        from workloads import AG_NEWS, ag_news, ag_news_test, minilm_run, textcnn_run

        rows = ag_news(options.rows)
        run = minilm_run(place.name, rows) if options.model == "minilm" else textcnn_run(place.name, rows, AG_NEWS)
        Index.build(run)
        held.write_text("".join(json.dumps(row) + "\n" for row in ag_news_test(HELD)), encoding="utf-8")
    return place, held


async def visits(address: str, process: int, options: argparse.Namespace) -> dict[str, Any]:
    """Let one user ask alone, then all together. Memory is read when the server is warm, and at the end."""
    import httpx

    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/html"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=60, limits=limits) as client:
        first = {url: await timed(client, url) for url in FIRST}
        words = [each["word"] for each in (await client.get("/api/words")).json()["words"]]
        chooser = random.Random(options.seed)
        order = chooser.sample(range(HELD), HELD)
        alone = [await timed(client, f"/why?row={row}") for row in order[:ALONE]]
        typed = [await timed(client, typed_url(chooser)) for _ in range(ALONE)]
        before = anonymous(process)
        seen = Seen()
        until = time.monotonic() + options.seconds
        users = [
            user(client, seen, until, options.seed * 1000 + number, (options.rows, words))
            for number in range(options.users)
        ]
        middle = asyncio.create_task(after(options.seconds / 2, process))
        await asyncio.gather(*users)
        return {
            "first": first,
            "alone": alone,
            "alone_typed": typed,
            "memory": [before, await middle, anonymous(process)],
            "seconds": dict(seen.seconds),
            "statuses": [[kind, status, count] for (kind, status), count in sorted(seen.statuses.items())],
            "lost": seen.lost,
        }


async def user(client: Any, seen: Seen, until: float, seed: int, known: tuple[int, list[str]]) -> None:
    """Think, visit, and so on; come again when a 503 says so."""
    import httpx

    chooser = random.Random(seed)
    await asyncio.sleep(chooser.uniform(0, THINK[1]))
    while time.monotonic() < until:
        (kind,) = chooser.choices(list(KINDS), list(KINDS.values()))
        url = page_url(chooser, *known) if kind == "page" else (stored_url if kind[0] == "s" else typed_url)(chooser)
        started = time.monotonic()
        try:
            answer = await get(client, url)
        except httpx.HTTPError:
            seen.lost += 1
            continue
        seen.statuses[kind, answer.status_code] += 1
        if answer.status_code == 200:
            seen.seconds[kind].append(time.monotonic() - started)
        wait = float(answer.headers.get("retry-after", 0)) if answer.status_code == 503 else 0.0
        await asyncio.sleep(max(wait, chooser.uniform(*THINK)))


def page_url(chooser: random.Random, rows: int, words: list[str]) -> str:
    which, sort = chooser.choice(["all", "wrong"]), chooser.choice(["loss", "-loss", "row", "-row"])
    urls = {
        f"/predictions?which={which}&sort={sort}&at={chooser.randint(1, 5)}": 6,
        "/predictions?text=oil": 1,
        "/why": 1,
        f"/corpus?sort={chooser.choice(['-self', 'row', 'same', '-hubs'])}&at={chooser.randint(1, 20)}": 2,
        f"/corpus/{chooser.randrange(rows)}": 2,
        f"/words?at={chooser.randint(1, 10)}": 2,
        "/word?" + urlencode({"word": chooser.choice(words)}): 2,
        "/worklist": 1,
        "/jobs": 1,
    }
    return chooser.choices(list(urls), list(urls.values()))[0]


def stored_url(chooser: random.Random) -> str:
    return f"/why?row={chooser.randrange(HELD)}"


def typed_url(chooser: random.Random) -> str:
    words = [
        "oil",
        "prices",
        "team",
        "final",
        "season",
        "software",
        "internet",
        "president",
        "court",
        "space",
        "the",
        "of",
    ]
    return f"/why?text={'+'.join(chooser.choices(words, k=chooser.randint(8, 30)))}"


async def get(client: Any, url: str) -> Any:
    """Open a page as a browser does: one that is still being made is followed until it comes."""
    address = url
    while (answer := await client.get(address, follow_redirects=True)).status_code == 202:
        name = answer.text.split('data-watch="')[1].split('"')[0]
        while True:
            told = await client.get(f"/api/work/{name}")
            if told.status_code != 200:
                return told
            if told.json()["state"] in ("done", "unknown"):
                break
            await asyncio.sleep(LOOK)
        address = f"{url}{'&' if '?' in url else '?'}watch={name}"
    return answer


async def timed(client: Any, url: str) -> float:
    started = time.monotonic()
    (await get(client, url)).raise_for_status()
    return time.monotonic() - started


async def after(seconds: float, process: int) -> int:
    await asyncio.sleep(seconds)
    return anonymous(process)


def anonymous(process: int) -> int:
    """RssAnon of a process, in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc has no RssAnon: this benchmark needs Linux")


def report(found: dict[str, Any], options: argparse.Namespace) -> None:
    def row(name: str, seconds: list[float], refused: int | str, failed: int | str) -> list[str]:
        p95 = statistics.quantiles(seconds, n=20)[-1] if len(seconds) > 1 else seconds[0]
        cells = [statistics.median(seconds), p95, max(seconds)]
        return [name, str(len(seconds)), *[f"{1000 * cell:,.0f}" for cell in cells], str(refused), str(failed)]

    def count(kind: str, busy: bool) -> int:
        statuses = [(status, many) for name, status, many in found["statuses"] if name == kind and status >= 500]
        return sum(many for status, many in statuses if (status == 503) == busy)

    rows = [
        row("alone: stored query", found["alone"], "", ""),
        row("alone: typed query", found["alone_typed"], "", ""),
        *[row(kind, found["seconds"][kind], count(kind, True), count(kind, False)) for kind in KINDS],
    ]
    print(table(["visit", "answered", "p50 ms", "p95 ms", "most ms", "503", "other 5xx"], rows))
    before, middle, end = (size / 1e6 for size in found["memory"])
    first = ", ".join(f"{url} {seconds:.1f} s" for url, seconds in found["first"].items())
    print(f"first view of each page: {first}; answers that did not come: {found['lost']}")
    print(f"anonymous memory of the server: {before:.0f} MB warm, {middle:.0f} MB half way, {end:.0f} MB at the end")
    save(f"load-{options.model}-{options.rows}", found)
    other = [status for _, status, _ in found["statuses"] if status >= 400 and status != 503]
    if other or found["lost"]:
        sys.exit(f"failures: statuses {sorted(set(other))}, {found['lost']} without an answer")


if __name__ == "__main__":
    os.environ.setdefault("HEADWATER_QUIET", "1")
    main()
