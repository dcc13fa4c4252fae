"""Turns to load an application: granted in order, also while somebody who waits is told to stop."""

import asyncio
import contextlib

from tenantry.node.starts import Kind, Starts


def test_a_turn_that_ends_while_a_waiting_one_is_cancelled_goes_to_the_next() -> None:
    async def main() -> list[str]:
        starts, granted = Starts(1), []

        async def take(name: str) -> None:
            await starts.acquire(Kind(name))
            granted.append(name)

        await take("first")
        second, third = asyncio.create_task(take("second")), asyncio.create_task(take("third"))
        await asyncio.sleep(0)
        second.cancel()
        starts.release(Kind("first"))  # before the second has come to know
        with contextlib.suppress(asyncio.CancelledError):
            await second
        await asyncio.wait_for(third, 1)
        return granted

    assert asyncio.run(main()) == ["first", "third"]
