"""The one worker: calls come one after another, and who comes when the queue is full is told when to come again."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from headwater.progress import Stage, progress_bar, stage
from headwater.web.worker import LENGTH, WATCH, BusyError, Watch, Worker
from web.conftest import bench_of


def test_calls_run_one_at_a_time_in_the_order_in_which_they_came() -> None:
    worker, inside, order = Worker(), [0], []

    def job(number: int) -> int:
        inside[0] += 1
        assert inside[0] == 1, "two calls at once"
        threading.Event().wait(0.002)
        order.append(number)
        inside[0] -= 1
        return number * number

    async def all_of_them() -> list[int]:
        return list(await asyncio.gather(*(worker.run(lambda n=n: job(n)) for n in range(12))))

    assert asyncio.run(all_of_them()) == [n * n for n in range(12)]
    assert order == list(range(12)) and worker.waiting == 0
    worker.close()


def test_a_full_queue_refuses_and_takes_calls_again_when_there_is_room() -> None:
    worker, gate = Worker(length=3), threading.Event()

    async def crowd() -> None:
        held = [asyncio.create_task(worker.run(gate.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        assert worker.waiting == 3
        with pytest.raises(BusyError) as refused:
            await worker.run(gate.wait)
        assert refused.value.retry_after >= 1
        gate.set()
        assert await asyncio.gather(*held) == [True] * 3
        assert await worker.run(lambda: 7) == 7

    asyncio.run(crowd())
    worker.close()


def test_a_caller_that_goes_away_leaves_the_queue_and_its_call_is_never_made() -> None:
    worker, gate, made = Worker(length=2), threading.Event(), []

    async def leaving() -> None:
        first = asyncio.create_task(worker.run(gate.wait))
        second = asyncio.create_task(worker.run(lambda: made.append(1)))
        await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.sleep(0.01)
        assert worker.waiting == 1
        gate.set()
        await first

    asyncio.run(leaving())
    assert made == []
    worker.close()


def test_a_failing_call_reaches_its_caller_and_not_the_next_one() -> None:
    worker = Worker()

    def fail() -> None:
        raise ZeroDivisionError

    async def both() -> int:
        with pytest.raises(ZeroDivisionError):
            await worker.run(fail)
        return await worker.run(lambda: 3)

    assert asyncio.run(both()) == 3
    worker.close()


@pytest.fixture
def crowded(served: Path, client_of: Callable[[Path], TestClient]) -> TestClient:
    return client_of(served)


@contextmanager
def full(worker: Worker) -> Iterator[None]:
    """The line of a worker, full of calls that wait until the end."""
    gate = threading.Event()
    loop = asyncio.new_event_loop()
    calls = [loop.create_task(worker.run(gate.wait)) for _ in range(LENGTH)]
    loop.run_until_complete(asyncio.sleep(0.01))
    assert worker.waiting == LENGTH
    yield
    gate.set()
    loop.run_until_complete(asyncio.gather(*calls))
    loop.close()


def test_overload_is_503_with_retry_after_and_a_sentence(crowded: TestClient) -> None:
    with full(bench_of(crowded).worker):
        for path in ("/api/why?row=0", "/why?text=warm+bread", "/predictions"):
            answer = crowded.get(path)
            assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
            assert "again in" in answer.json()["error"]
    assert crowded.get("/api/why?row=0").status_code == 200


def test_what_was_answered_lately_costs_the_model_nothing(crowded: TestClient) -> None:
    first = crowded.get("/api/why?row=1")
    with full(bench_of(crowded).worker):
        assert crowded.get("/api/why?row=1&marked=3").json() == first.json()
        assert crowded.get("/api/why?row=1&k=3").status_code == 503


def test_calls_of_one_key_that_wait_together_are_one_call() -> None:
    worker, gate, made = Worker(), threading.Event(), []

    async def several() -> list[int]:
        first = asyncio.create_task(worker.run(gate.wait))
        calls = [asyncio.create_task(worker.run(lambda: made.append(1) or 7, key="same")) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert worker.waiting == 2
        calls[0].cancel()  # the others still wait for it
        await asyncio.sleep(0.01)
        gate.set()
        await first
        return await asyncio.gather(*calls[1:])

    assert asyncio.run(several()) == [7, 7] and made == [1]
    worker.close()


def test_a_call_tells_its_place_in_the_line_and_the_stage_that_the_floors_below_are_at() -> None:
    worker, gate, seen = Worker(), threading.Event(), threading.Event()

    def long_work() -> None:
        with progress_bar("reading rows", 9, show=False) as advance:
            advance(4)
            seen.set()
            gate.wait()
            stage("adding up")

    async def watched() -> list[tuple[int, Stage | None]]:
        watches = [Watch(), Watch()]
        found = []
        calls = []
        for watch in watches:
            token = WATCH.set(watch)
            calls.append(asyncio.create_task(worker.run(long_work)))
            WATCH.reset(token)
        await asyncio.to_thread(seen.wait)
        for watch in watches:
            assert watch.call is not None
            found.append((worker.before(watch.call), watch.call.stage))
        gate.set()
        await asyncio.gather(*calls)
        assert watches[1].call is not None and watches[1].call.stage == Stage("adding up")
        return found

    assert asyncio.run(watched()) == [(0, Stage("reading rows", 4, 9, "rows")), (1, None)]
    worker.close()
