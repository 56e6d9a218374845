"""Who waits for news shares the looking with others, and not the trouble."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from services.whatsapp.actors import Actor, Member, Server
from services.whatsapp.flows import watching
from services.whatsapp.flows.watching import Watch, one_more
from services.whatsapp.refusals import RefusalError
from services.whatsapp.runtime import Runtime
from services.whatsapp.settings import Settings

ANA = Member("ana", "of ana")
EXPIRED = Member("ana", "expired")


class Shelf:
    """Something to read; remembers who asked for what."""

    def __init__(self) -> None:
        self.asked: list[tuple[Actor, list[int]]] = []

    async def read(self, actor: Actor, keys: Sequence[int]) -> Mapping[int, str]:
        self.asked.append((actor, list(keys)))
        if actor == EXPIRED:
            raise ValueError(actor)
        return {key: f"{actor.member_id} {key}" for key in keys if key > 0}


async def test_a_thousand_who_wait_with_one_token_cost_one_read() -> None:
    shelf = Shelf()
    watch = Watch(shelf.read, every=0.01)
    seen = await asyncio.gather(*(watch.look(ANA, [number % 50 + 1]) for number in range(1000)))
    assert all(found[number % 50 + 1] == f"ana {number % 50 + 1}" for number, found in enumerate(seen))
    assert len(shelf.asked) == 1


async def test_nobody_is_read_for_with_the_token_of_another() -> None:
    shelf = Shelf()
    watch = Watch(shelf.read, every=0.01)
    ana, server = await asyncio.gather(watch.look(ANA, [1, 2]), watch.look(Server(), [2, 3]))
    assert (ana, server) == ({1: "ana 1", 2: "ana 2"}, {2: "None 2", 3: "None 3"})
    assert sorted(shelf.asked, key=str) == sorted([(ANA, [1, 2]), (Server(), [2, 3])], key=str)


async def test_the_trouble_of_one_token_is_no_trouble_of_another() -> None:
    watch = Watch(Shelf().read, every=0.01)
    ana, *others = await asyncio.gather(
        watch.look(ANA, [1]), watch.look(EXPIRED, [1]), watch.look(EXPIRED, [2]), return_exceptions=True
    )
    assert ana == {1: "ana 1"}
    assert [type(each) for each in others] == [ValueError, ValueError]


async def test_a_read_is_of_a_bounded_size() -> None:
    shelf = Shelf()
    watch = Watch(shelf.read, every=0.01)
    found = await watch.look(ANA, list(range(1, 251)))
    assert len(found) == 250
    assert [len(keys) for _, keys in shelf.asked] == [100, 100, 50]


async def test_who_hangs_up_is_not_read_for_and_the_next_look_works() -> None:
    shelf = Shelf()
    watch = Watch(shelf.read, every=0.01)
    gone = asyncio.create_task(watch.look(ANA, [1]))
    await asyncio.sleep(0)
    gone.cancel()
    assert await watch.look(ANA, [2]) == {2: "ana 2"}
    assert await watch.look(ANA, [3]) == {3: "ana 3"}
    assert [keys for _, keys in shelf.asked] == [[2], [3]]


def test_a_user_has_only_so_many_calls_under_way_and_others_theirs() -> None:
    runtime = Runtime(Settings.read({"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_SECRET_KEY": "sb_secret_x"}))
    held = [one_more(runtime, ANA) for _ in range(watching.MOST_OF_A_USER)]
    for each in held:
        each.__enter__()
    with pytest.raises(RefusalError) as refused, one_more(runtime, ANA):
        pass
    assert (refused.value.code, refused.value.status) == ("too_many_polls", 429)
    with one_more(runtime, Member("eva", "of eva")), one_more(runtime, Server()):
        pass
    for each in held:
        each.__exit__(None, None, None)
    with one_more(runtime, ANA):
        pass


async def test_closing_ends_every_look_and_whoever_waits_for_it() -> None:
    never = asyncio.Event()

    async def read(actor: Actor, keys: Sequence[int]) -> Mapping[int, str]:
        reading.set()
        await never.wait()
        return {}

    reading = asyncio.Event()
    watch = Watch(read, every=0.01)
    looking = [asyncio.create_task(watch.look(actor, [1])) for actor in (ANA, Server())]
    await reading.wait()
    looking.append(asyncio.create_task(watch.look(ANA, [2])))
    await asyncio.sleep(0)

    await watch.close()
    await asyncio.wait(looking)
    assert [each.cancelled() for each in looking] == [True] * 3
    assert asyncio.all_tasks() == {asyncio.current_task()}
