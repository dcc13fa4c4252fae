"""A copied machine: two agents with one agent.json."""

import asyncio

from node_lab import Postgres

from tenantry.node.errors import StoreUnavailable
from tenantry.node.store import Line, Store
from tenantry.node.twins import AGAIN_SECONDS, LOOK_SECONDS, watch_for_twins


class Sessions:
    def __init__(self, *answers: int | None) -> None:
        self._answers = list(answers)

    async def others_alive(self, name: str, own: str) -> int:
        if not self._answers:
            raise asyncio.CancelledError
        answer = self._answers.pop(0)
        if answer is None:
            raise StoreUnavailable("away")
        return answer


def watched(*answers: int | None) -> tuple[list[int], list[float]]:
    told: list[int] = []
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def body() -> None:
        await watch_for_twins(Sessions(*answers), "a/", "a/1", told.append, sleep)

    try:
        asyncio.run(body())
    except asyncio.CancelledError:
        pass
    return told, slept


def test_one_that_is_seen_twice_is_told_and_untold() -> None:
    told, slept = watched(0, 1, 1, 0)
    assert told == [0, 1, 0]
    assert slept[:4] == [LOOK_SECONDS, LOOK_SECONDS, AGAIN_SECONDS, LOOK_SECONDS]


def test_a_restart_elsewhere_or_a_lost_database_is_no_twin() -> None:
    assert watched(1, 0, None, 0)[0] == [0, 0]


def test_the_database_knows_who_lives(postgres: Postgres) -> None:
    async def body() -> None:
        dsn = postgres.new_database()
        lines = [Line(dsn, name=f"tenantry-agent/{name}") for name in ("blog/1", "blog/1", "blog/2", "blog-two/3")]
        stores = [Store(line) for line in lines]
        for store in stores:
            await store.desired(0)
        assert await stores[0].others_alive("tenantry-agent/blog/", "tenantry-agent/blog/1") == 1
        stores[2].close()
        await asyncio.sleep(0.2)
        assert await stores[0].others_alive("tenantry-agent/blog/", "tenantry-agent/blog/1") == 0
        for store in stores:
            store.close()

    asyncio.run(body())
