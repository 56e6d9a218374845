"""The verbs mean the same whichever way they go: by the Data API, over a connection, or through a pooler."""

import asyncio
import uuid
from typing import Any

import psycopg
import pytest

from services.whatsapp.actors import Member, Server
from services.whatsapp.clients.failures import Rejected, Unavailable
from services.whatsapp.clients.verbs import Swept, Verbs
from tests.supabase.ground import Land, new_wamid, some_phone

Database = psycopg.Connection[Any]
NOBODY = "01a20e73-43e3-7748-b753-9aa16eea958f"
CONTRACT: Any = {"parameters": [{"key": "body.1", "type": "text", "required": True, "max": 1024}]}


@pytest.fixture
def land(database: Database) -> Land:
    return Land(database)


async def test_a_message_goes_all_its_way(verbs: Verbs, land: Land) -> None:
    item: Any = land.template(key="k", ref="ñ 🙂 \u2028 \"'\\")
    accepted, again = [one for _ in range(2) for one in await verbs.enqueue([item]) if not isinstance(one, Unavailable)]
    assert (accepted["status"], again["status"]) == ("accepted", "replayed")
    assert [await verbs.has_key(land.country_id, key) for key in ("k", "another")] == [True, False]

    claim_id, accounts = str(uuid.uuid4()), [(land.country_id, "main")]
    claims = [await verbs.claim(claim_id, accounts, limit=10, lease=60, horizon=0.5, ahead=0) for _ in range(2)]
    [lease], [same] = (claim["leases"] for claim in claims)
    assert lease["lease_id"] == same["lease_id"]
    assert 55 < lease["seconds"] <= 60
    [message] = lease["messages"]
    assert message["to"] == item["phone"]
    assert message["content"] == item["content"]
    of_lease = {"country_id": land.country_id, "lease_id": lease["lease_id"]}
    assert await verbs.announce([{**of_lease, "may_post": 1}]) == [lease["lease_id"]]  # type: ignore[typeddict-item]

    wamid = new_wamid()
    result: Any = {**of_lease, "message_id": message["message_id"], "outcome": "accepted", "wamid": wamid}
    assert await verbs.settle([result]) == {"settled": 1, "stale": 0}
    event: Any = land.status(wamid, "delivered", 1795500000)
    assert await verbs.ingest([event]) == {"received": 1, "applied": 1, "parked": 0}
    row = land.message(message["message_id"])
    assert (row["state"], row["ref"]) == ("delivered", item["ref"])


async def test_nothing_is_a_batch_as_well(verbs: Verbs) -> None:
    assert await verbs.enqueue([]) == []
    assert await verbs.announce([]) == []
    assert await verbs.settle([]) == {"settled": 0, "stale": 0}
    assert await verbs.ingest([]) == {"received": 0, "applied": 0, "parked": 0}


async def test_the_version_of_the_schema_is_told(verbs: Verbs, database: Database) -> None:
    assert (await verbs.schema_version(),) == database.execute("select whatsapp.schema_version()").fetchone()


async def test_a_job_is_swept(verbs: Verbs) -> None:
    swept = await verbs.sweep("statistics")
    assert isinstance(swept, Swept)
    assert not swept.failed


async def test_templates_and_numbers_are_synced(verbs: Verbs, land: Land) -> None:
    row: Any = {"name": "greeting", "language": "es", "status": "APPROVED", "category": "UTILITY", "contract": CONTRACT}
    ask = (land.country_id, "main", "greeting", "es")
    assert await verbs.template_contract(*ask) is None
    assert await verbs.sync_templates(land.country_id, "main", [row], complete=False) == {"stored": 1, "removed": 0}
    assert await verbs.template_contract(*ask) == CONTRACT
    assert await verbs.template_contract(land.country_id, None, "greeting", "es") == CONTRACT

    number: Any = {"messaging_limit": "TIER_2K", "throughput": "STANDARD", "coexistence": None, "quality": "GREEN"}
    synced = await verbs.sync_number(land.country_id, "main", number)
    assert synced == {"messaging_limit": 2000, "messages_per_second": 80, "quality": "GREEN"}
    [account] = [each for each in await verbs.account_states() if each["country_id"] == land.country_id]
    assert (account["state"], account["messaging_limit"], account["paused_until"]) == ("active", 2000, None)


async def test_a_campaign_is_filled_and_controlled(verbs: Verbs, land: Land) -> None:
    opening: Any = {
        "country_id": land.country_id,
        "name": "spring",
        "template_name": "offer",
        "template_language": "es",
    }
    opened = await verbs.open_campaign(opening | {"key": "k", "fingerprint": "f"})
    assert "campaign_id" in opened
    campaign_id = opened["campaign_id"]
    body = [{"type": "body", "parameters": [{"type": "text", "text": 'Añ"a'}]}]
    people = [some_phone(), some_phone(), "+0"]
    rows: Any = [
        {"row": n, "phone": phone, "match_key": phone[1:], "bsuid": None, "contact_id": None, "ref": None}
        | {"components": body if n == 1 else None}
        for n, phone in enumerate(people, 1)
    ]
    written: list[Any] = [await verbs.enqueue_campaign(land.country_id, campaign_id, "c", "f", rows) for _ in range(2)]
    assert written[0] == written[1] == {"accepted": 2, "refused": [{"row": 3, "code": "invalid_item", "field": "to"}]}
    [told] = land.all(
        "select content from whatsapp.messages where content::text like '%%Añ%%' and country_id = %s", [land.country_id]
    )
    assert told["content"]["template"]["components"] == body

    paused = await verbs.control_campaign(land.country_id, campaign_id, "pause", Server())
    assert "counts" in paused
    assert (paused["state"], paused["by"], paused["counts"]) == ("paused", None, {"queued": 2})
    refused = await verbs.control_campaign(land.country_id, campaign_id, "resume", Member(NOBODY, "token"))
    assert refused == {"code": "not_a_member", "field": "country_id"}


async def test_consents_accounts_and_roles(verbs: Verbs, database: Database, land: Land) -> None:
    fact: Any = {"row": 1, "phone": (phone := some_phone()), "match_key": phone[1:], "bsuid": None, "contact_id": None}
    fact |= {"what": "opt_out", "scope": "all", "at": None, "how": "web form", "proof": None}
    recorded = await verbs.record_consents(land.country_id, Server(), "k", "f", [fact])
    assert recorded == {"recorded": 1, "refused": []}

    member = Member(str(uuid.uuid4()), "token")
    assert await verbs.roles_of(member.user_id) == {}
    database.execute("insert into whatsapp.members values (%s, %s, 'admin')", (land.country_id, member.user_id))
    assert await verbs.roles_of(member.user_id) == {land.country_id: "admin"}
    stopped = await verbs.control_account(land.country_id, None, "pause", member)
    assert "account" in stopped
    assert (stopped["account"], stopped["state"], stopped["reason"]) == ("main", "paused", "by_a_person")


async def test_what_can_never_be_stored_is_rejected(verbs: Verbs, land: Land) -> None:
    """A NUL inside JSON, a NUL in a text, an id that is none, and a refusal of our own."""
    number: Any = {"messaging_limit": None, "throughput": None, "coexistence": None, "quality": None}
    with pytest.raises(Rejected) as rejected:
        await verbs.sync_number(land.country_id, "nobody", number)
    assert rejected.value.code == "PT404"
    for ask in (
        verbs.settle([{"outcome": "accepted", "title": "a\0b"}]),
        verbs.open_campaign({"country_id": "a\0b"}),
    ):
        with pytest.raises(Rejected):
            await ask


async def test_many_calls_at_once_each_get_their_own_answer(verbs: Verbs, land: Land) -> None:
    items: list[Any] = [land.template() for _ in range(60)]
    answers = await asyncio.gather(*(verbs.enqueue([item]) for item in items))
    verdicts = [each for [each] in answers if not isinstance(each, Unavailable)]
    ids = [each["message_id"] for each in verdicts if each["status"] == "accepted"]
    assert [
        land.one("select key from whatsapp.idempotency_keys where message_id = %s", [each])["key"] for each in ids
    ] == [item["key"] for item in items]


async def test_whoever_goes_away_takes_no_answer_of_others(verbs: Verbs, land: Land) -> None:
    """A call that is broken off in the middle: its connection may still bring its answer."""
    for _ in range(20):
        gone = asyncio.create_task(verbs.roles_of(NOBODY))
        await asyncio.sleep(0.002)
        gone.cancel()
        assert await verbs.settle([]) == {"settled": 0, "stale": 0}


async def test_many_who_need_one_contract_share_one_read(verbs: Verbs, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    call = verbs._call

    async def counted(verb: str, *arguments: Any, **more: Any) -> Any:
        asked.append(verb)
        return await call(verb, *arguments, **more)

    monkeypatch.setattr(verbs, "_call", counted)
    ask = ("MX", "main", "nothing", "es")
    assert await asyncio.gather(*(verbs.template_contract(*ask) for _ in range(50))) == [None] * 50
    assert asked == ["template_contract"]
