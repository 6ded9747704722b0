"""A request to end work, from any thread and at any time."""

import asyncio
import threading

import pytest

from flows.runtime.cancellation import Cancellation, CancellationRequested, Reason


def request_in_thread(cancellation: Cancellation, reason: Reason) -> None:
    thread = threading.Thread(target=cancellation.request, args=[reason])
    thread.start()
    thread.join()


async def test_a_request_from_another_thread_ends_the_step_and_the_first_one_counts() -> None:
    cancellation, is_canceled = Cancellation(), asyncio.Event()

    async def step() -> None:
        request_in_thread(cancellation, Reason.DEADLINE)
        request_in_thread(cancellation, Reason.CANCEL)
        try:
            await asyncio.Event().wait()
        finally:
            is_canceled.set()

    with pytest.raises(CancellationRequested) as caught:
        await cancellation.unless_requested(step())
    assert caught.value.reason is cancellation.reason is Reason.DEADLINE
    await is_canceled.wait()


async def test_work_that_a_request_cancels_is_waited_for() -> None:
    cancellation = Cancellation()

    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "tidied up"

    cancellation.request(Reason.CANCEL)
    assert await cancellation.cancels(work()) == "tidied up"


def test_a_request_after_the_work_and_its_loop_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    cancellation = Cancellation()

    async def work() -> int:
        return 3

    assert asyncio.run(cancellation.cancels(work())) == 3
    assert asyncio.run(cancellation.unless_requested(work())) == 3
    cancellation.request(Reason.HAND_OVER)
    assert caplog.records == []


@pytest.mark.parametrize("meaning", [Reason.CANCEL, Reason.HAND_OVER])
async def test_who_is_cancelled_by_asyncio_asks_what_that_means(meaning: Reason) -> None:
    async def asked() -> Reason:
        return meaning

    cancellation = Cancellation(asked)
    waiting = asyncio.create_task(cancellation.unless_requested(asyncio.Event().wait()))
    await asyncio.sleep(0)
    waiting.cancel()
    handed_over = meaning is Reason.HAND_OVER
    with pytest.raises(asyncio.CancelledError if handed_over else CancellationRequested):
        await waiting
    assert cancellation.reason is (None if handed_over else Reason.CANCEL)
