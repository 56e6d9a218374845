"""What Meta says twice in other words, or of messages that are not ours to move: kept, told, never acted upon twice."""

import time
import uuid
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.local.stack import Stack
from tests.supabase.ground import Land, Row, beside, new_wamid, some_phone

Database = psycopg.Connection[Any]
NOW = time.time()
INGEST = "select whatsapp.ingest(%s::jsonb[])"
LOST = {"type": "unsupported", "errors": [{"code": 131060, "title": "Message unavailable"}]}
HELLO = {"type": "text", "text": {"body": "hola"}}
BYE = {"type": "text", "text": {"body": "BAJA"}}


@pytest.fixture
def land(database: Database) -> Land:
    return Land(database, messages_per_second=1000)


def says(land: Land, phone: str, wamid: str, content: Row) -> Row:
    """One delivery of a message: another content is another event."""
    return land.writes(phone, NOW) | {"wamid": wamid, "content": content, "payload": {"said": content}}


def shown(land: Land, wamid: str) -> Row:
    return land.one("select * from whatsapp.messages where country_id = %s and wamid = %s", (land.country_id, wamid))


def story(land: Land, wamid: str) -> list[tuple[str, Row | None]]:
    rows = land.all(
        "select event, detail -> 'content' as content from whatsapp.message_story"
        " where country_id = %s and message_id = %s order by at, step",
        (land.country_id, shown(land, wamid)["message_id"]),
    )
    return [(row["event"], row["content"]) for row in rows]


def outcomes(land: Land) -> list[str]:
    rows = land.all("select outcome from whatsapp.webhook_events where country_id = %s order by 1", (land.country_id,))
    return [row["outcome"] for row in rows]


@pytest.mark.parametrize("placeholder", [LOST, {"type": "unknown"}, {"type": "text"}])
@pytest.mark.parametrize("together", [False, True])
def test_the_text_takes_the_place_of_its_placeholder(land: Land, placeholder: Row, together: bool) -> None:
    phone, wamid = some_phone(), new_wamid()
    deliveries = [says(land, phone, wamid, placeholder), says(land, phone, wamid, HELLO)]
    if together:
        land.ingest(*deliveries)
    else:
        for delivery in deliveries:
            land.ingest(delivery)

    row = shown(land, wamid)
    assert (row["kind"], row["content"]) == ("text", HELLO)
    told = story(land, wamid)
    assert placeholder in [content for _, content in told]
    assert [event for event, _ in told].count("message_received") == 1
    assert land.count("webhook_events") == 2
    assert land.count("messages") == 1


def test_a_placeholder_that_comes_late_hides_no_text(land: Land) -> None:
    phone, wamid = some_phone(), new_wamid()
    land.ingest(says(land, phone, wamid, HELLO))
    land.ingest(says(land, phone, wamid, LOST))

    assert shown(land, wamid)["content"] == HELLO
    assert story(land, wamid) == [("message_received", None), ("message_repeated", LOST)]


def test_another_text_under_a_known_wamid_is_kept_in_the_story(land: Land) -> None:
    phone, wamid = some_phone(), new_wamid()
    other = {"type": "text", "text": {"body": "adiós"}}
    land.ingest(says(land, phone, wamid, HELLO))
    land.ingest(says(land, phone, wamid, other))

    assert shown(land, wamid)["content"] == HELLO
    assert story(land, wamid) == [("message_received", None), ("message_repeated", other)]


def test_the_same_text_in_another_envelope_changes_nothing(land: Land) -> None:
    phone, wamid = some_phone(), new_wamid()
    stop_word(land)
    land.ingest(says(land, phone, wamid, BYE))
    land.ingest(says(land, phone, wamid, BYE) | {"payload": {"more": 1}})

    assert story(land, wamid) == [("message_received", None)]
    assert outcomes(land) == ["applied", "recorded"]
    assert land.count("consents") == 1


def test_a_wish_that_comes_in_the_place_of_a_placeholder_is_heard(land: Land) -> None:
    phone, wamid = some_phone(), new_wamid()
    stop_word(land)
    land.ingest(says(land, phone, wamid, LOST))
    land.ingest(says(land, phone, wamid, BYE))

    person = land.one("select opted_out_at from whatsapp.contacts where country_id = %s", (land.country_id,))
    assert person["opted_out_at"] is not None


def test_two_deliveries_at_once_lose_neither(land: Land, stack: Stack) -> None:
    """Who writes somebody new does so alone in the country: the other waits, and is a repeat then."""
    phone, wamid = some_phone(), new_wamid()
    first, second = (says(land, phone, wamid, content) for content in (LOST, HELLO))
    with psycopg.connect(stack.database_url) as one:
        one.execute(INGEST, ([Jsonb(first)],))
        with beside(stack, lambda other: other.execute(INGEST, ([Jsonb(second)],))) as waiting:
            one.commit()
            waiting.result(10)

    assert shown(land, wamid)["content"] == HELLO
    assert ("message_replaced", LOST) in story(land, wamid)


def stop_word(land: Land) -> None:
    land.run(
        "insert into whatsapp.stop_words (country_id, word, action, scope) values (%s, 'baja', 'opt_out', 'all')",
        land.country_id,
    )


# ── Statuses ──────────────────────────────────────────────────────────────────────────────────────


def test_a_status_of_an_inbound_message_moves_nobody(land: Land) -> None:
    phone, wamid = some_phone(), new_wamid()
    land.ingest(says(land, phone, wamid, HELLO))
    error = {"code": 131050, "title": "t", "details": "d", "effect": "opt_out", "wait_seconds": 0}

    land.ingest(land.status(wamid, "failed", NOW, error=error))

    assert shown(land, wamid)["state"] == "received"
    assert land.count("consents") == 0
    assert outcomes(land) == ["applied", "ignored"]


def test_a_status_that_came_before_its_inbound_message_moves_nobody(land: Land) -> None:
    phone, wamid = some_phone(), new_wamid()
    land.ingest(land.status(wamid, "read", NOW))
    land.ingest(says(land, phone, wamid, HELLO))
    land.sweep()

    assert shown(land, wamid)["state"] == "received"
    assert shown(land, wamid)["read_at"] is None


def test_a_second_failure_for_another_reason_is_told_and_works(land: Land) -> None:
    [message] = land.leased(land.template("offer"))
    wamid = new_wamid()
    land.settle(land.outcome(message, "accepted", wamid=wamid))
    first = {"code": 131026, "title": "undeliverable", "details": "d", "effect": "none", "wait_seconds": 0}
    second = {"code": 131050, "title": "stopped", "details": "d", "effect": "opt_out", "wait_seconds": 0}

    land.ingest(
        land.status(wamid, "failed", NOW, error=first),
        land.status(wamid, "failed", NOW + 1, error=second) | {"key": str(uuid.uuid4())},
    )

    row = land.message(message["message_id"])
    assert (row["state"], row["error_code"]) == ("failed", 131026)
    codes = land.all(
        "select code from whatsapp.message_events where country_id = %s and event = 'message_failed' order by code",
        (land.country_id,),
    )
    assert [each["code"] for each in codes] == [131026, 131050]
    assert land.count("consents") == 1


@pytest.mark.parametrize("state", ["sent", "delivered", "read", "played"])
def test_what_meta_says_late_undoes_the_guess_that_nothing_was_sent(land: Land, state: str) -> None:
    [message] = land.leased(land.template("offer"))
    given_up(land, message)

    land.ingest(land.status(new_wamid(), state, NOW, message["message_id"]))

    row = land.message(message["message_id"])
    assert row["state"] == state
    assert (row["failed_at"], row["error_code"], row["error_title"], row["error_details"]) == (None,) * 4


def test_metas_own_reason_replaces_the_guess(land: Land) -> None:
    [message] = land.leased(land.template("offer"))
    given_up(land, message)
    error = {"code": 131026, "title": "undeliverable", "details": "d", "effect": "none", "wait_seconds": 0}

    land.ingest(land.status(new_wamid(), "failed", NOW, message["message_id"], error=error))

    row = land.message(message["message_id"])
    assert (row["state"], row["error_code"], row["error_title"]) == ("failed", 131026, "undeliverable")
    assert row["failed_at"].timestamp() == pytest.approx(NOW, abs=1)


def given_up(land: Land, message: Row) -> None:
    """What sweep makes of a message whose outcome nobody learned in a day, although Meta's answer had a code."""
    land.settle(land.outcome(message, "unknown", code=2, title="Temporary", details="d"))
    land.run(
        "update whatsapp.queue set unknown_until = now(), leased_at = now() - interval '2 days' where country_id = %s",
        land.country_id,
    )
    land.sweep()
    row = land.message(message["message_id"])
    assert (row["state"], row["error_title"]) == ("failed", "outcome_unknown")


def test_a_late_status_takes_a_message_that_was_given_back_out_of_the_queue(land: Land) -> None:
    [message] = land.leased(land.template())
    land.settle(land.outcome(message, "unknown"))
    land.run(
        "update whatsapp.queue set lease_id = null, leased_until = null, unknown_until = null, unknown_requeues = 1"
        " where country_id = %s",
        land.country_id,
    )
    land.run("update whatsapp.messages set state = 'queued' where country_id = %s", land.country_id)

    land.ingest(land.status(new_wamid(), "sent", NOW, message["message_id"]))

    assert land.message(message["message_id"])["state"] == "sent"
    assert land.queued(message["message_id"]) is None


# ── What changes nothing ──────────────────────────────────────────────────────────────────────────


def about(land: Land, kind: str, field: str, content: Row, **more: Any) -> Row:
    return {
        "key": str(uuid.uuid4()),
        "country_id": land.country_id,
        "account_id": "main",
        "field": field,
        "kind": kind,
        "at": time.time(),
        "content": content,
        "payload": content,
    } | more


PLAIN = {"message_template_name": "plain", "message_template_language": "es"}
NOTHING_MOVES: dict[str, tuple[str, str, Row]] = {
    "an alert": ("account", "account_alerts", {"alert_info": {"alert_type": "OBA_APPROVED"}}),
    "a name": ("account", "phone_number_name_update", {"decision": "APPROVED"}),
    "a flag": ("template", "message_template_status_update", PLAIN | {"event": "FLAGGED"}),
    "components": ("template", "message_template_components_update", PLAIN),
    "a template nobody has": (
        "template",
        "message_template_status_update",
        PLAIN | {"message_template_name": "nobody", "event": "PAUSED"},
    ),
    "a preference of another kind": ("preference", "user_preferences", {"value": "maybe"}),
    "a changed device": ("system", "messages", {"type": "system", "system": {"type": "user_identity_changed"}}),
}


@pytest.mark.parametrize("name", NOTHING_MOVES)
def test_what_changes_nothing_is_recorded_and_not_applied(land: Land, name: str) -> None:
    kind, field, content = NOTHING_MOVES[name]
    phone = some_phone()
    contact = {"wa_id": phone[1:], "match_key": phone[1:]} if kind in ("preference", "system") else None
    land.ingest(about(land, kind, field, content, contact=contact))
    assert outcomes(land) == ["recorded"]


def test_what_changes_something_is_applied(land: Land) -> None:
    land.ingest(
        about(land, "template", "message_template_status_update", PLAIN | {"event": "PAUSED"}),
        about(land, "account", "business_capability_update", {"max_daily_conversations_per_business": 2000}),
    )
    assert outcomes(land) == ["applied", "applied"]
