"""The two books, side by side: what our log says, and what really arrived at the stand-in for Meta."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from tests.graph.client import Arrival

STATES = ("queued", "accepted", "sent", "delivered", "read")
_PROGRESS = """
  select country_id, count(*), count(accepted_at), count(sent_at), count(delivered_at), count(read_at)
  from whatsapp.messages where direction = 'outbound' and kind = 'template' group by country_id
"""
_LOG = """
  select m.message_id::text, coalesce(c.phone, c.wa_id), m.state
  from whatsapp.messages m join whatsapp.contacts c using (country_id, contact_id)
  where m.direction = 'outbound' and m.country_id = %s
"""
_STATUS_EVENTS = """
  select count(sent_at) + count(delivered_at) + count(read_at)
  from whatsapp.messages where direction = 'outbound' and country_id = %s
"""
_STORIED = """
  select message_id from whatsapp.messages
  where country_id = %s and kind = 'template' and read_at is not null
  order by read_at - accepted_at desc, message_id
  limit 1
"""

Database = psycopg.Connection[Any]
Parameters = dict[str, Any]


@dataclass(frozen=True)
class Figures:
    """Messages of one country: in the log, and at the numbers of that country.

    `twice` were accepted by Meta more than once; `lost` are in the log and never arrived; `strays` arrived at these
    numbers without being of this country, or for another person than the log says. `status_events` are the times
    of sent, delivered and read that stand in the log.
    """

    logged: int
    accepted: int
    twice: int
    lost: int
    strays: int
    read: int
    status_events: int


@dataclass(frozen=True)
class Reach:
    """A list of people against what arrived at Meta. Members count people, or messages for people.

    `once` got exactly one message; `twice` more; `never` none; `uninvited` are not on the list and got one all the
    same; `mixed_up` got what another person's row says; `elsewhere` were written to from another number.
    """

    once: int
    twice: int
    never: int
    uninvited: int
    mixed_up: int
    elsewhere: int


def progress(database: Database) -> dict[str, dict[str, int]]:
    """How many template messages of each country have reached each state so far."""
    return {country: dict(zip(STATES, counts, strict=True)) for country, *counts in database.execute(_PROGRESS)}


def compare(database: Database, country_id: str, arrivals: Iterable[Arrival]) -> Figures:
    """The figures of a country; `arrivals` are those at its numbers."""
    log = database.execute(_LOG, (country_id,)).fetchall()
    phones = {message_id: phone.lstrip("+") for message_id, phone, _ in log}
    arrived = list(arrivals)
    times = Counter(one.callback_data for one in arrived)
    taken = Counter(one.callback_data for one in arrived if one.accepted)
    return Figures(
        logged=len(log),
        accepted=taken.total(),
        twice=sum(count > 1 for count in taken.values()),
        lost=sum(message_id not in times for message_id in phones),
        strays=sum((one.to or "").lstrip("+") != phones.get(one.callback_data or "") for one in arrived),
        read=sum(state == "read" for _, _, state in log),
        status_events=int(_one(database, _STATUS_EVENTS, country_id)),
    )


def reach(invited: Mapping[str, Parameters], template: str, number_id: str, arrivals: Iterable[Arrival]) -> Reach:
    """Who of the people `invited`, by phone, got the `template` from this number, with the parameters of their row."""
    arrived = [one for one in arrivals if one.template == template and one.accepted]
    here = [one for one in arrived if one.number_id == number_id]
    times = Counter(one.to or "" for one in here)
    return Reach(
        once=sum(times[phone] == 1 for phone in invited),
        twice=sum(times[phone] > 1 for phone in invited),
        never=sum(times[phone] == 0 for phone in invited),
        uninvited=sum(phone not in invited for phone in times),
        mixed_up=sum(_parameters(one) != invited.get(one.to or "", _parameters(one)) for one in here),
        elsewhere=len(arrived) - len(here),
    )


def climbed(states: Mapping[str, int]) -> dict[str, int]:
    """How many have come at least as far as each state, from how many are in each state now."""
    order = STATES[1:]
    return {state: sum(states.get(later, 0) for later in order[place:]) for place, state in enumerate(order)}


def storied(database: Database, country_id: str) -> str:
    """A template message of a country; one whose statuses came in the wrong order, if there is one."""
    return str(_one(database, _STORIED, country_id))


def state(database: Database, message_id: str) -> str:
    return str(_one(database, "select state from whatsapp.messages where message_id = %s", message_id))


def known(database: Database, wamid: str) -> bool:
    """Is a message that somebody wrote to us in the log?"""
    query = "select count(*) from whatsapp.messages where direction = 'inbound' and wamid = %s"
    return bool(_one(database, query, wamid))


def stopped_marketing(database: Database) -> int:
    """People who told WhatsApp that they want no marketing."""
    return int(_one(database, "select count(*) from whatsapp.contacts where marketing_opted_out_at is not null"))


def webhook_events(database: Database) -> int:
    """Different events that came from Meta."""
    events = "case jsonb_typeof(payload) when 'array' then jsonb_array_length(payload) else 1 end"
    return int(_one(database, f"select sum({events}) from whatsapp.webhook_events"))


def waiting(database: Database) -> int:
    """Messages that still have to be sent."""
    return int(_one(database, "select count(*) from whatsapp.queue"))


def _parameters(arrival: Arrival) -> Parameters:
    """The parameters of a template as it arrived, by the contract's keys."""
    found: Parameters = {}
    for component in arrival.body["template"].get("components", []):
        place = str(component["type"])
        for position, given in enumerate(component["parameters"], 1):
            if given["type"] == "text":
                found[f"{place}.{position}"] = given["text"]
            else:
                found[f"{place}.{given['type']}"] = given[given["type"]]["link"]
    return found


def _one(database: Database, query: LiteralString, *arguments: object) -> Any:
    row = database.execute(query, arguments).fetchone()
    assert row is not None
    return row[0]
