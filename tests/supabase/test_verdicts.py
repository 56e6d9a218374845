"""What the queue does after each kind of answer of Meta's: with the message itself, and with all else that waits."""

import json
import time
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from services.whatsapp.clients.graph import read_answer
from services.whatsapp.flows.draining import result_of
from services.whatsapp.meta.errors import from_webhook
from tests.supabase.ground import Land, Row, messages_of, new_wamid, some_phone

DAY = 86_400
OFFER = {"type": "template", "template": {"name": "offer", "language": {"code": "es"}}}


@pytest.fixture
def land(database: psycopg.Connection[Any]) -> Land:
    return Land(database)


def result(land: Land, message: Row, code: int, status: int = 400, subcode: int | None = None) -> Row:
    """What a drainer settles when Meta answers the message with this error."""
    error = {"code": code, "message": "words"} | ({"error_subcode": subcode} if subcode else {})
    answer = read_answer(status, json.dumps({"error": error}).encode())
    settled = result_of(answer, message["attempts"], 0.5, message["waits"])
    return {**land.outcome(message, ""), **settled}


def offer(land: Land, phone: str | None = None, **more: object) -> Row:
    return land.template("offer", phone, content=OFFER, **more)


def writing(land: Land) -> str:
    """A person who has just written."""
    phone = some_phone()
    land.ingest(land.writes(phone, time.time()))
    return phone


def leaves(land: Land, item: Row) -> bool:
    """Whether this goes now, and alone: what waits already has another person."""
    [verdict] = land.enqueue(item)
    if verdict["status"] != "accepted":
        return False
    message_id = verdict["message_id"]
    return message_id in [message["message_id"] for message in messages_of(land.claim())]


def account(land: Land) -> Row:
    return land.one("select * from whatsapp.accounts where country_id = %s", [land.country_id])


# ── Each verdict ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Verdict:
    """Meta's answer, and what of it: the state of the message, and whether other templates and replies still leave."""

    code: int
    state: str
    templates: bool
    replies: bool
    reply: bool = False
    status: int = 400
    subcode: int | None = None
    waits: float = 0


VERDICTS = {
    "the number is unknown to Meta": Verdict(100, "queued", False, False, subcode=33),
    "a wrong parameter": Verdict(100, "failed", True, True),
    "an expired token": Verdict(190, "queued", False, False, status=401),
    "policy: a template is refused": Verdict(368, "queued", False, True, status=403),
    "policy: even a reply is refused": Verdict(368, "queued", False, False, reply=True, status=403),
    "locked": Verdict(131031, "queued", False, False, status=403),
    "spam: a template is refused": Verdict(131048, "queued", False, True),
    "spam: a reply is refused": Verdict(131048, "queued", False, True, reply=True, waits=60),
    "wrong categories": Verdict(131064, "queued", False, True),
    "throttled, code unknown": Verdict(999_017, "queued", False, False, status=429),
    "the number is too fast": Verdict(130429, "queued", False, False),
    "too many management calls": Verdict(80007, "queued", True, True, waits=55),
    "too many management calls, in the other words": Verdict(80008, "queued", True, True, waits=55),
    "a breakdown, code unknown": Verdict(999_017, "unknown", True, True, status=500),
    "code unknown": Verdict(999_017, "failed", True, True),
    "the experiment": Verdict(130472, "failed", True, True),
    "enough marketing": Verdict(131049, "failed", True, True),
    "the template is not there yet": Verdict(132001, "queued", True, True, status=404, waits=15 * 60),
    "a throttled flow": Verdict(132069, "queued", True, True, waits=3_600),
    "a parameter is not allowed": Verdict(132018, "failed", True, True),
    "the media's host was away": Verdict(131053, "queued", True, True, waits=1),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_what_becomes_of_the_message_and_of_the_others(land: Land, name: str) -> None:
    case = VERDICTS[name]
    person = writing(land)
    [message] = land.leased(land.text(person) if case.reply else land.template())

    land.settle(result(land, message, case.code, case.status, case.subcode))

    assert land.message(message["message_id"])["state"] == case.state
    waiting = land.queued(message["message_id"])
    if case.state == "queued":
        assert waiting is not None
        assert waiting["lease_id"] is None
        assert waiting["run_at"].timestamp() - time.time() >= case.waits - 5
    else:
        assert (waiting is None) == (case.state == "failed")
    assert leaves(land, land.text(writing(land))) == case.replies
    assert leaves(land, land.template()) == case.templates


@pytest.mark.parametrize("code", [368, 131048, 131064])
def test_the_rest_of_the_templates_ends_by_itself_and_the_message_goes(land: Land, code: int) -> None:
    [message] = land.leased(land.template())
    land.settle(result(land, message, code))

    row = account(land)
    assert row["state"] == "active"
    assert DAY - 60 < row["templates_paused_until"].timestamp() - time.time() <= DAY
    assert messages_of(land.claim()) == []

    land.run("update whatsapp.accounts set templates_paused_until = now() where country_id = %s", land.country_id)
    assert [again["message_id"] for again in messages_of(land.claim())] == [message["message_id"]]


@pytest.mark.parametrize("code", [368, 131048, 131064])
def test_by_webhook_the_message_has_failed_and_the_templates_rest(land: Land, code: int) -> None:
    [message] = land.leased(land.template())
    wamid = new_wamid()
    land.settle(land.outcome(message, "accepted", wamid=wamid))
    error = from_webhook({"code": code}).as_dict()
    land.ingest(land.status(wamid, "failed", time.time(), message["message_id"], error=error))

    assert land.message(message["message_id"])["state"] == "failed"
    assert leaves(land, land.text(writing(land)))
    assert not leaves(land, land.template())


@pytest.mark.parametrize("code", [368, 131048, 131064])
def test_told_of_the_account_alone_the_templates_rest(land: Land, code: int) -> None:
    told = land.template_status("", "", time.time()) | {"kind": "account", "field": "messages", "content": {}}
    land.ingest(told | {"error": from_webhook({"code": code}).as_dict()})

    assert leaves(land, land.text(writing(land)))
    assert not leaves(land, land.template())


def test_a_longer_rest_is_not_cut_short(land: Land) -> None:
    land.run(
        "update whatsapp.accounts set templates_paused_until = now() + interval '7 days' where country_id = %s",
        land.country_id,
    )
    [reply] = land.leased(land.text(writing(land)))
    land.settle(result(land, reply, 131048))
    assert account(land)["templates_paused_until"].timestamp() - time.time() > 6 * DAY


def test_a_reply_refused_for_spam_is_tried_again_ever_more_seldom(land: Land) -> None:
    [reply] = land.leased(land.text(writing(land)))
    pauses = []
    for _ in range(8):
        land.settle(result(land, reply, 131048))
        waiting = land.queued(reply["message_id"])
        assert waiting is not None
        pauses.append(round((waiting["run_at"].timestamp() - time.time()) / 60))
        land.run("update whatsapp.queue set run_at = now() where country_id = %s", land.country_id)
        [reply] = messages_of(land.claim())
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


HOUR = 3_600


def failed(land: Land, code: int, ago: float, phone: str | None = None) -> None:
    """A webhook tells only now that Meta failed a message with this code so long ago."""
    [message] = land.leased(offer(land, phone))
    wamid = new_wamid()
    land.settle(land.outcome(message, "accepted", wamid=wamid))
    error = from_webhook({"code": code}).as_dict()
    land.ingest(land.status(wamid, "failed", time.time() - ago, message["message_id"], error=error))


def test_what_is_told_late_counts_from_when_meta_said_it(land: Land) -> None:
    failed(land, 131048, ago=25 * HOUR)
    assert leaves(land, land.template())
    failed(land, 131048, ago=20 * HOUR)
    assert 3 * HOUR < account(land)["templates_paused_until"].timestamp() - time.time() <= 4 * HOUR + 5


def test_a_person_is_left_alone_from_when_meta_said_it(land: Land) -> None:
    phone = some_phone()
    failed(land, 131049, ago=25 * HOUR, phone=phone)
    assert land.enqueue(offer(land, phone))[0]["status"] == "accepted"


def test_who_has_written_since_is_answered(land: Land) -> None:
    before, after = some_phone(), some_phone()
    land.ingest(*(land.writes(phone, time.time() - HOUR) for phone in (before, after)))
    failed(land, 131047, ago=2 * HOUR, phone=after)
    failed(land, 131047, ago=HOUR / 2, phone=before)
    assert leaves(land, land.text(after))
    assert land.enqueue(land.text(before))[0]["code"] == "window_closed"


def test_who_has_opted_in_since_has_opted_in(land: Land) -> None:
    phone = some_phone()
    row = {"row": 1, "phone": phone, "match_key": phone[1:], "what": "opt_in", "scope": "marketing", "how": "web form"}
    hour_ago = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - HOUR))
    land.run(
        "select whatsapp.record_consents(%s, null, 'k', 'f', array[%s]::jsonb[])",
        land.country_id,
        Jsonb(row | {"at": hour_ago}),
    )
    failed(land, 131050, ago=2 * HOUR, phone=phone)
    assert land.enqueue(offer(land, phone))[0]["status"] == "accepted"
    assert len(messages_of(land.claim())) == 1

    other = some_phone()
    failed(land, 131050, ago=HOUR / 2, phone=other)
    assert land.enqueue(offer(land, other))[0]["code"] == "opted_out"


@pytest.mark.parametrize("code", [132015, 132016])
def test_a_template_that_was_approved_since_stays_so(land: Land, code: int) -> None:
    query = "select status from whatsapp.templates where country_id = %s and name = 'offer'"
    land.run(
        "update whatsapp.templates set status_at = now() - interval '1 hour' where country_id = %s", land.country_id
    )
    failed(land, code, ago=2 * HOUR)
    assert land.one(query, [land.country_id])["status"] == "APPROVED"
    failed(land, code, ago=HOUR / 2)
    assert land.one(query, [land.country_id])["status"] == ("PAUSED" if code == 132015 else "DISABLED")


def test_what_was_said_before_the_account_was_started_again_does_not_pause_it_again(land: Land) -> None:
    land.run(
        "update whatsapp.accounts set state_since = now() - interval '1 hour' where country_id = %s", land.country_id
    )
    failed(land, 131042, ago=2 * HOUR)
    assert account(land)["state"] == "active"
    failed(land, 131042, ago=HOUR / 2)
    assert (account(land)["state"], account(land)["state_code"]) == ("paused", 131042)


def test_a_throttled_flow_rests_its_campaigns_as_a_whole(land: Land) -> None:
    """Ten messages with a flow an hour: a campaign of many must not ask Meta for each of them."""
    campaign_id = land.campaign(*(some_phone() for _ in range(3)))["campaign_id"]
    [first] = messages_of(land.claim(limit=1))
    land.settle(result(land, first, 132069))

    assert messages_of(land.claim()) == []
    progress = land.one("select whatsapp.campaign_progress(%s, %s) as seen", [land.country_id, campaign_id])["seen"]
    assert (progress["state"], progress["held"]["reason"]) == ("running", "template_throttled")
    assert leaves(land, land.template())
    assert leaves(land, offer(land))

    land.run("update whatsapp.lanes set held_until = now() where country_id = %s", land.country_id)
    assert len(messages_of(land.claim())) == 3


# ── Marketing that Meta holds back ────────────────────────────────────────────────────────────────

SHUT, WINDOW, ENTRY = "nothing open", "the window open", "the free entry point open"


def cooled(land: Land, code: int, open_now: str) -> str:
    """A person to whom Meta has refused marketing with this code, and what is open now."""
    phone = some_phone()
    [message] = land.leased(offer(land, phone))
    land.settle(result(land, message, code))
    opening = {SHUT: "null, null", WINDOW: "now() + interval '1 hour', null", ENTRY: "null, now() + interval '1 hour'"}
    land.run(
        f"update whatsapp.conversations set (window_until, entry_point_until) = ({opening[open_now]})"
        " where country_id = %s",
        land.country_id,
    )
    return phone


@pytest.mark.parametrize(("code", "days"), [(130472, 30), (131049, 1)])
def test_how_long_a_person_is_left_alone(land: Land, code: int, days: int) -> None:
    cooled(land, code, SHUT)
    row = land.one(
        "select marketing_cooled_until as until from whatsapp.contacts where country_id = %s", [land.country_id]
    )
    assert days * DAY - 60 < row["until"].timestamp() - time.time() <= days * DAY


@pytest.mark.parametrize("code", [130472, 131049])
@pytest.mark.parametrize("open_now", [SHUT, WINDOW, ENTRY])
def test_held_back_marketing_passes_while_the_person_is_talking_to_us(land: Land, code: int, open_now: str) -> None:
    phone = cooled(land, code, open_now)
    [verdict] = land.enqueue(offer(land, phone))
    assert verdict.get("code") == ("contact_cooling" if open_now == SHUT else None)
    assert len(messages_of(land.claim())) == (0 if open_now == SHUT else 1)


@pytest.mark.parametrize("code", [130472, 131049])
@pytest.mark.parametrize("open_now", [SHUT, WINDOW, ENTRY])
def test_a_campaign_asks_the_same(land: Land, code: int, open_now: str) -> None:
    refused = land.campaign(cooled(land, code, open_now), some_phone())["refused"]
    assert [row["code"] for row in refused] == (["contact_cooling"] if open_now == SHUT else [])
    assert len(messages_of(land.claim())) == (1 if open_now == SHUT else 2)


@pytest.mark.parametrize("column", ["window_until", "entry_point_until"])
def test_what_has_shut_again_when_the_message_leaves_holds_it_back(land: Land, column: str) -> None:
    phone = cooled(land, 131049, WINDOW if column == "window_until" else ENTRY)
    [verdict] = land.enqueue(offer(land, phone))
    # A message is a while on its way: the last minute does not count.
    land.run(
        f"update whatsapp.conversations set {column} = now() + interval '59 seconds' where country_id = %s",
        land.country_id,
    )
    assert land.claim()["refused"] == 1
    assert land.message(verdict["message_id"])["refusal"] == "contact_cooling"


def test_a_window_with_another_number_of_ours_does_not_count(land: Land, database: psycopg.Connection[Any]) -> None:
    phone = cooled(land, 131049, WINDOW)
    land.run(
        "insert into whatsapp.accounts (country_id, account_id, portfolio) values (%s, 'other', %s)",
        land.country_id,
        land.country_id,
    )
    land.run(
        "insert into whatsapp.templates (country_id, account_id, name, language, status, category)"
        " values (%s, 'other', 'offer', 'es', 'APPROVED', 'MARKETING')",
        land.country_id,
    )
    assert land.enqueue(offer(land, phone, account_id="other"))[0]["code"] == "contact_cooling"
