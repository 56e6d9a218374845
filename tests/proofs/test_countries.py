"""A country is a wall: nobody sends, polls or reads through it, and nobody writes around the verbs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from postgrest.exceptions import APIError

from supabase import AsyncClient, AsyncClientOptions, acreate_client
from tests.proofs.house import PLAIN, House, check_refusal, some_phone, until

COUNTRIES = ("MX", "CO")
READABLE = {"accounts", "contacts", "conversations", "templates", "messages", "message_events", "queue", "members"} | {
    *("lanes", "campaigns", "campaign_counts", "campaign_people", "consents", "stop_words", "message_story"),
}
HIDDEN = {
    "former_names",
    "idempotency_keys",
    "leases",
    "throttles",
    "webhook_events",
    "parked_statuses",
    "wamids",
    "retention",
}


@asynccontextmanager
async def signed_in(house: House, name: str | None) -> AsyncIterator[AsyncClient]:
    """The official client with a user's session, or with the publishable key alone."""
    options = AsyncClientOptions(schema="whatsapp", auto_refresh_token=False)
    client = await acreate_client(house.stack.url, house.stack.publishable_key, options)
    try:
        if name is not None:
            user = house.users[name]
            await client.auth.sign_in_with_password({"email": user.email, "password": user.password})
        yield client
    finally:
        await client.postgrest.aclose()
        await client.auth.close()


@pytest.fixture(scope="module", autouse=True)
def waiting(whole_house: House) -> None:
    """A message that stays in the queue, so that this table has something to hide as well."""
    whole_house.enqueue(whole_house.account(), [some_phone()])
    for country in COUNTRIES:
        whole_house.run(
            """with c as (
                 insert into whatsapp.campaigns (country_id, account_id, name, template_name, template_language, state)
                 values (%s, 'main', 'empty', 'plain', 'es_MX', 'cancelled') returning country_id, campaign_id),
               p as (
                 insert into whatsapp.campaign_people (country_id, campaign_id, contact_id, message_id)
                 select country_id, campaign_id, gen_random_uuid(), gen_random_uuid() from c)
               insert into whatsapp.campaign_counts (country_id, campaign_id, key, n)
               select country_id, campaign_id, 'cancelled', 1 from c""",
            country,
        )
        whole_house.run("insert into whatsapp.stop_words (country_id, word) values (%s, 'nobody says this')", country)
        whole_house.run(
            """with c as (
                 insert into whatsapp.contacts (country_id, match_key) values (%s, '1')
                 returning country_id, contact_id)
               insert into whatsapp.consents (country_id, contact_id, what, scope, at, how)
               select country_id, contact_id, 'opt_in', 'all', now(), 'web form' from c""",
            country,
        )


@pytest.fixture
async def messages(house: House) -> dict[str, str]:
    """A message of each country, read; ids by country."""
    sent = {
        country: await house.send(some_phone(country), PLAIN, user=country, country_id=country) for country in COUNTRIES
    }
    for country, message_id in sent.items():
        await house.until_state(message_id, "read")
        house.run(
            "insert into whatsapp.message_events (country_id, message_id, event) values (%s, %s, 'message_held')",
            *(country, message_id),
        )
    await until(
        lambda: house.count("messages where accepted_at is null and account_id = 'main' and state = 'read'") == 0
    )
    return sent


@pytest.fixture
async def colombian(house: House, messages: dict[str, str]) -> AsyncIterator[AsyncClient]:
    async with signed_in(house, "CO") as client:
        yield client


@pytest.fixture
async def anonymous(house: House, messages: dict[str, str]) -> AsyncIterator[AsyncClient]:
    async with signed_in(house, None) as client:
        yield client


async def rows(client: AsyncClient, table: str) -> list[dict[str, Any]] | None:
    """What the Data API shows of a table; None where it refuses."""
    try:
        answer = await client.table(table).select("*").execute()
    except APIError:
        return None
    return [dict(row) for row in answer.data]  # type: ignore[arg-type]


async def test_the_list_of_tables_is_complete(house: House) -> None:
    tables = house.all(
        "select relname from pg_class where relnamespace = 'whatsapp'::regnamespace and relkind in ('r', 'p', 'v')"
    )

    assert {row["relname"] for row in tables} == READABLE | HIDDEN


async def test_an_operator_of_one_country_reads_nothing_of_another(house: House, colombian: AsyncClient) -> None:
    for table in sorted(READABLE | HIDDEN):
        found = await rows(colombian, table)
        if table in HIDDEN:
            assert not found, table
            continue
        assert found is not None, table
        assert {row["country_id"] for row in found} <= {"CO"}, table
        assert found or table == "queue", table
        assert house.count(f"{table} where country_id = 'MX'") > 0


async def test_a_row_cannot_be_asked_for_by_its_id_either(colombian: AsyncClient, messages: dict[str, str]) -> None:
    asked = colombian.table("messages").select("*").in_("message_id", list(messages.values()))

    found = (await asked.execute()).data

    assert [dict(row)["message_id"] for row in found] == [messages["CO"]]  # type: ignore[arg-type]


async def test_whoever_is_not_signed_in_reads_nothing(anonymous: AsyncClient) -> None:
    for table in sorted(READABLE | HIDDEN):
        assert not await rows(anonymous, table), table


async def test_membership_taken_away_counts_at_once(house: House, colombian: AsyncClient) -> None:
    user = house.sign_up("leaver", {"CO": "admin"})
    async with signed_in(house, "leaver") as client:
        assert await rows(client, "messages")

        house.run("delete from whatsapp.members where user_id = %s", user.user_id)

        assert await rows(client, "messages") == []
    check_refusal(await house.post(some_phone("CO"), PLAIN, user="leaver", country_id="CO"), 403, "not_a_member")


@pytest.mark.parametrize("who", ["CO", "MX", None])
async def test_nobody_writes_a_table_through_the_data_api(
    house: House, messages: dict[str, str], who: str | None
) -> None:
    before = house.all("select m::text from whatsapp.messages m order by 1")
    members = house.count("members")

    async with signed_in(house, who) as client:
        message = client.table("messages")
        member = {"country_id": "MX", "user_id": house.users["CO"].user_id, "role": "admin"}
        attempts = [
            message.update({"state": "failed"}).eq("country_id", "MX"),
            message.delete().eq("country_id", "MX"),
            client.table("members").insert(member),
            client.table("queue").delete().eq("country_id", "MX"),
        ]
        for attempt in attempts:
            with pytest.raises(APIError):
                await attempt.execute()

    assert house.all("select m::text from whatsapp.messages m order by 1") == before
    assert house.count("members") == members


VERBS: dict[str, dict[str, Any]] = {
    "enqueue": {"p_items": []},
    "claim": {"p_claim_id": "00000000-0000-7000-8000-000000000000", "p_accounts": ["MX/main"]},
    "settle": {"p_results": []},
    "ingest": {"p_events": []},
    "sweep": {},
    "sync_templates": {"p_country": "MX", "p_account": "main", "p_templates": []},
    "record_consents": {"p_country": "MX", "p_actor": None, "p_key": "k", "p_fingerprint": "f", "p_rows": []},
}


@pytest.mark.parametrize("who", ["MX", None])
@pytest.mark.parametrize("verb", VERBS)
async def test_nobody_but_the_server_calls_a_verb(
    house: House, messages: dict[str, str], who: str | None, verb: str
) -> None:
    async with signed_in(house, who) as client:
        with pytest.raises(APIError):
            await client.rpc(verb, VERBS[verb]).execute()

    assert house.count("templates where country_id = 'MX' and account_id = 'main'") > 0


@pytest.mark.parametrize(("who", "home", "away"), [("MX", "MX", "CO"), ("CO", "CO", "MX")])
async def test_send_and_poll_stop_at_the_border(
    house: House, messages: dict[str, str], who: str, home: str, away: str
) -> None:
    check_refusal(await house.post(some_phone(away), PLAIN, user=who, country_id=away), 403, "not_a_member")
    headers = {"authorization": f"Bearer {house.users[who].token}"}
    async with house.client() as client:
        both = await client.get("/status-poll", params={"message_id": list(messages.values())}, headers=headers)
        theirs = await client.get("/status-poll", params={"country_id": away}, headers=headers)
        nobody = await client.get("/status-poll", params={"message_id": list(messages.values())})

    assert [seen["message_id"] for seen in both.json()["messages"]] == [messages[home]]
    assert theirs.json()["messages"] == []
    check_refusal(nobody, 401, "missing_credentials")


async def test_a_contact_of_another_country_is_unknown(house: House, messages: dict[str, str]) -> None:
    contact_id = str(house.message(messages["MX"])["contact_id"])

    answer = await house.post({"contact_id": contact_id}, PLAIN, user="CO", country_id="CO")

    check_refusal(answer, 404, "unknown_contact")


async def test_a_viewer_reads_but_does_not_send(house: House, messages: dict[str, str]) -> None:
    check_refusal(await house.post(some_phone(), PLAIN, user="viewer"), 403, "role_too_low")
    headers = {"authorization": f"Bearer {house.users['viewer'].token}"}
    async with house.client() as client:
        seen = await client.get("/status-poll", params={"message_id": messages["MX"]}, headers=headers)

    assert [each["message_id"] for each in seen.json()["messages"]] == [messages["MX"]]


@pytest.mark.parametrize("function", ["queue-drain", "templates-sync"])
async def test_the_doors_of_cron_are_closed_to_the_publishable_key(house: House, function: str) -> None:
    async with house.client() as client:
        assert (await client.post(f"/{function}")).status_code == 401
