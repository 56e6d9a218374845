"""Who acts is said by everything on the way to the database, and what is not said is no right."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from services.whatsapp import clients, flows
from services.whatsapp.actors import Actor, Member, Server

WHO = frozenset({"actor", "user_id", "token", "member_id"})


def modules() -> Iterator[ModuleType]:
    for package in (flows, clients):
        for each in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(each.name)


def functions() -> Iterator[tuple[str, Callable[..., object]]]:
    for module in modules():
        for name, found in vars(module).items():
            if inspect.isclass(found) and found.__module__ == module.__name__:
                methods = {each: of for each, of in vars(found).items() if inspect.isfunction(of)}
                # Not __init__: a person of WhatsApp's has a user_id too, and that is Meta's.
                yield from ((f"{name}.{each}", of) for each, of in methods.items() if each != "__init__")
            elif inspect.isfunction(found) and found.__module__ == module.__name__:
                yield name, found


def test_who_acts_is_never_nobody_by_default() -> None:
    """`None`, or an argument left out, would be the server: it may do everything."""
    asked = [
        (name, each)
        for name, found in functions()
        for each in inspect.signature(found).parameters.values()
        if each.name in WHO
    ]
    assert {name for name, each in asked if each.annotation == Actor} >= {"send", "enqueue", "record", "by_ids"}
    lax = [
        name
        for name, each in asked
        if each.default is not each.empty or each.annotation not in (Actor, str, "Actor", "str")
    ]
    assert lax == []


def test_servers_are_one_and_a_member_is_known_by_user_and_token() -> None:
    assert Server("default") == Server("cron")
    assert len({Member("ana", "1"), Member("ana", "2"), Member("ana", "1"), Server("a"), Server("b")}) == 3


@pytest.mark.parametrize(("actor", "member_id"), [(Server(), None), (Member("ana", "eyJ"), "ana")])
def test_an_actor_in_the_words_of_the_verbs(actor: Actor, member_id: str | None) -> None:
    assert actor.member_id == member_id
    assert "eyJ" not in repr(actor)
