"""Consent: the later fact wins in whatever order facts arrive, calls may be repeated, stop words are answered once."""

import itertools
import threading
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from tests.local.stack import Stack
from tests.supabase.ground import Land, Row, messages_of, some_phone

Database = psycopg.Connection[Any]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
STANDING = ("opted_in_at", "opted_out_at", "marketing_opted_out_at")
BYE = "You will hear no more from us."


@pytest.fixture
def land(database: Database) -> Land:
    return Land(database)


def fact(
    phone: str, what: str, at: datetime | None = None, scope: str = "all", how: str = "web form", **more: Any
) -> Row:
    row = {"phone": phone, "match_key": phone[1:], "what": what, "scope": scope, "how": how}
    return row | ({"at": at.isoformat()} if at else {}) | more


def record(land: Land, *facts: Row, key: str | None = None, fingerprint: str = "same", actor: Any = None) -> Row:
    rows = [Jsonb({"row": number} | one) for number, one in enumerate(facts, 1)]
    arguments = (land.country_id, actor, key or str(uuid.uuid4()), fingerprint, rows)
    query = "select whatsapp.record_consents(%s, %s, %s, %s, %s::jsonb[]) as answer"
    return dict(land.one(query, arguments)["answer"])


def standing(land: Land, phone: str) -> tuple[datetime | None, ...]:
    row = land.one(
        f"select {', '.join(STANDING)} from whatsapp.contacts where country_id = %s and match_key = %s",
        (land.country_id, phone[1:]),
    )
    return tuple(row[name] for name in STANDING)


def facts_of(land: Land, phone: str) -> list[Row]:
    return land.all(
        "select k.* from whatsapp.consents k join whatsapp.contacts c using (country_id, contact_id)"
        " where k.country_id = %s and c.match_key = %s order by consent_id",
        (land.country_id, phone[1:]),
    )


def says(land: Land, phone: str, body: str, at: float | None = None) -> Row:
    return land.writes(phone, time.time() if at is None else at) | {"content": {"type": "text", "text": {"body": body}}}


def stop_word(land: Land, word: str, **columns: object) -> None:
    values = {"country_id": land.country_id, "word": word} | columns
    places = ", ".join(["%s"] * len(values))
    land.run(f"insert into whatsapp.stop_words ({', '.join(values)}) values ({places})", *values.values())


def replies(land: Land) -> list[str]:
    """What was queued as an answer to a stop word, in order."""
    rows = land.all(
        "select content -> 'text' ->> 'body' as body from whatsapp.messages"
        " where country_id = %s and direction = 'outbound' and kind = 'text' order by message_id",
        (land.country_id,),
    )
    return [row["body"] for row in rows]


# ── Facts ─────────────────────────────────────────────────────────────────────────────────────────


def expected(facts: Iterable[tuple[str, str, int]]) -> tuple[datetime | None, ...]:
    """The rules as docs/campaigns.md tells them, over (what, scope, hour)."""
    no_of = {
        scope: max((at for what, of, at in facts if (what, of) == ("opt_out", scope)), default=-1)
        for scope in ("all", "marketing")
    }
    yes = [(scope, at) for what, scope, at in facts if what == "opt_in"]
    last_yes = max((at for _, at in yes), default=-1)
    last_yes_to_all = max((at for scope, at in yes if scope == "all"), default=-1)
    hours = (
        last_yes,
        no_of["all"] if no_of["all"] >= last_yes_to_all else -1,
        no_of["marketing"] if no_of["marketing"] >= last_yes else -1,
    )
    return tuple(NOON + timedelta(hours=hour) if hour >= 0 else None for hour in hours)


FACTS = st.lists(
    st.tuples(st.sampled_from(["opt_in", "opt_out"]), st.sampled_from(["all", "marketing"]), st.integers(0, 4)),
    min_size=1,
    max_size=6,
)


# Each example has a person of its own, so they may share the country.
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(facts=FACTS, cuts=st.sets(st.integers(1, 5)))
def test_what_holds_depends_on_the_facts_and_not_on_their_order(land: Land, facts: Any, cuts: set[int]) -> None:
    """In whatever order, and over however many calls, they come."""
    phone = some_phone()
    rows = [fact(phone, what, NOON + timedelta(hours=hour), scope) for what, scope, hour in facts]
    edges = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    for start, end in itertools.pairwise(edges):
        assert record(land, *rows[start:end]) == {"recorded": end - start, "refused": []}

    assert standing(land, phone) == expected(facts)


def test_an_old_import_does_not_undo_a_newer_opt_out(land: Land) -> None:
    phone = some_phone()
    record(land, fact(phone, "opt_out", NOON))
    record(land, fact(phone, "opt_in", NOON - timedelta(days=300), proof="customers.xlsx"))
    assert standing(land, phone) == (NOON - timedelta(days=300), NOON, None)

    record(land, fact(phone, "opt_in", NOON + timedelta(days=1)))
    assert standing(land, phone) == (NOON + timedelta(days=1), None, None)
    assert [row["what"] for row in facts_of(land, phone)] == ["opt_out", "opt_in", "opt_in"]


def test_an_opt_out_set_by_sql_is_a_fact_like_any_other(land: Land) -> None:
    phone = some_phone()
    land.run(
        "insert into whatsapp.contacts (country_id, match_key, opted_out_at) values (%s, %s, %s)",
        *(land.country_id, phone[1:], NOON),
    )
    record(land, fact(phone, "opt_in", NOON - timedelta(days=1)))
    assert standing(land, phone)[1] == NOON
    record(land, fact(phone, "opt_in", NOON + timedelta(days=1)))
    assert standing(land, phone)[1] is None


def test_a_fact_keeps_when_how_in_which_words_and_by_whom(land: Land) -> None:
    phone, user = some_phone(), uuid.uuid4()
    land.run("insert into whatsapp.members values (%s, %s, 'operator')", land.country_id, user)
    record(land, fact(phone, "opt_in", NOON, "marketing", "web form", proof="Yes, send me offers"), actor=user)
    [kept] = facts_of(land, phone)
    assert (kept["what"], kept["scope"], kept["at"], kept["how"]) == ("opt_in", "marketing", NOON, "web form")
    assert (kept["proof"], kept["recorded_by"]) == ("Yes, send me offers", user)
    assert kept["recorded_at"] > NOON


def test_people_are_found_by_any_name_and_made_known_if_new(land: Land) -> None:
    known, stranger, bsuid = some_phone(), some_phone(), f"MX.{uuid.uuid4().hex}"
    land.enqueue(land.template(phone=known))
    contact = land.one("select contact_id::text as id from whatsapp.contacts where match_key = %s", (known[1:],))["id"]
    answer = record(
        land,
        {"contact_id": contact, "what": "opt_out", "scope": "all", "how": "call"},
        fact(stranger, "opt_out"),
        {"bsuid": bsuid, "what": "opt_out", "scope": "all", "how": "call"},
        {"contact_id": str(uuid.uuid4()), "what": "opt_out", "scope": "all", "how": "call"},
        fact(stranger, "opt_out", datetime.now(UTC) + timedelta(hours=1)),
    )
    assert answer == {
        "recorded": 3,
        "refused": [
            {"row": 4, "code": "unknown_contact", "field": "to.contact_id"},
            {"row": 5, "code": "consent_in_future", "field": "at"},
        ],
    }
    assert land.count("contacts") == 3
    out = "select count(*) as n from whatsapp.contacts where country_id = %s and opted_out_at <= now()"
    assert land.one(out, (land.country_id,))["n"] == 3


def test_a_call_repeated_answers_the_same_and_adds_nothing(land: Land) -> None:
    phone = some_phone()
    facts = (fact(phone, "opt_in"), {"contact_id": str(uuid.uuid4()), "what": "opt_in", "scope": "all", "how": "x"})
    first = record(land, *facts, key="again")
    assert first["recorded"] == 1
    assert record(land, *facts, key="again") == first
    assert len(facts_of(land, phone)) == 1

    reused = {"code": "idempotency_key_reused", "field": "Idempotency-Key"}
    assert record(land, *facts, key="again", fingerprint="other") == reused
    # A key of a message is another key.
    land.enqueue(land.template(key="of a message"))
    assert record(land, *facts, key="of a message")["recorded"] == 1


def test_concurrent_calls_of_one_key_record_once(stack: Stack, land: Land) -> None:
    phone, answers = some_phone(), list[Row]()
    start = threading.Barrier(4)

    def call() -> None:
        with psycopg.connect(stack.database_url, autocommit=True) as connection:
            mine = _Elsewhere(land, connection)
            start.wait()
            answers.append(record(mine, fact(phone, "opt_out", NOON), key="at once"))

    _together(call, 4)
    assert answers == [{"recorded": 1, "refused": []}] * 4
    assert len(facts_of(land, phone)) == 1


def test_a_fact_waits_for_another_of_the_same_person_and_sees_it(stack: Stack, land: Land) -> None:
    """Were it to look only at what it saw first, an opt-out could outlive the opt-in after it."""
    phone = some_phone()
    record(land, fact(phone, "opt_out", NOON))
    with psycopg.connect(stack.database_url) as first, psycopg.connect(stack.database_url, autocommit=True) as second:
        record(_Elsewhere(land, first), fact(phone, "opt_in", NOON + timedelta(hours=2)))
        older = fact(phone, "opt_out", NOON + timedelta(hours=1))
        waiting = threading.Thread(target=record, args=(_Elsewhere(land, second), older))
        waiting.start()
        blocked = "select count(*) as n from pg_locks where pid = %s and not granted"
        deadline = time.monotonic() + 10
        while not land.one(blocked, (second.info.backend_pid,))["n"]:
            assert time.monotonic() < deadline, "the second call does not wait for the first"
        first.commit()
        waiting.join()

    assert standing(land, phone) == (NOON + timedelta(hours=2), None, None)
    assert len(facts_of(land, phone)) == 3


class _Elsewhere(Land):
    """The same country by another connection."""

    def __init__(self, land: Land, database: Database) -> None:
        self.country_id = land.country_id
        self._database = database


def _together(call: Any, times: int) -> None:
    threads = [threading.Thread(target=call) for _ in range(times)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


@pytest.mark.parametrize(("role", "code"), [("viewer", "role_too_low"), (None, "not_a_member")])
def test_who_may_not_write_records_nothing(land: Land, role: str | None, code: str) -> None:
    user = uuid.uuid4()
    if role:
        land.run("insert into whatsapp.members values (%s, %s, %s)", land.country_id, user, role)
    assert record(land, fact(some_phone(), "opt_in"), actor=user) == {"code": code, "field": "country_id"}
    assert land.count("contacts") == land.count("consents") == land.count("idempotency_keys") == 0


def test_a_country_without_accounts_is_unknown(land: Land) -> None:
    land.country_id = "XX" if land.country_id != "XX" else "XY"
    assert record(land, fact(some_phone(), "opt_in"))["code"] == "unknown_country"


def test_an_opt_out_goes_with_the_person_to_their_new_number(land: Land) -> None:
    old, new = some_phone(), some_phone()
    record(land, fact(old, "opt_out", NOON), fact(new, "opt_in", NOON - timedelta(days=1)))
    moved = {"wa_id": new[1:], "match_key": new[1:], "previous_match_key": old[1:]}
    land.ingest(land.writes(new, time.time()) | {"kind": "system", "contact": moved})
    assert standing(land, new)[1] == NOON

    record(land, fact(new, "opt_in", NOON - timedelta(hours=1)))
    assert standing(land, new)[1] == NOON
    record(land, fact(new, "opt_in", NOON + timedelta(hours=1)))
    assert standing(land, new)[1] is None


# ── The gates ─────────────────────────────────────────────────────────────────────────────────────


def verdict(land: Land, phone: str, template: str) -> str:
    [answer] = land.enqueue(land.template(template, phone))
    return str(answer.get("code", answer["status"]))


@pytest.mark.parametrize(
    ("facts", "offer", "plain"),
    [
        ([], "not_opted_in", "accepted"),
        ([("opt_in", "all")], "accepted", "accepted"),
        ([("opt_in", "marketing")], "accepted", "accepted"),
        ([("opt_in", "all"), ("opt_out", "marketing")], "opted_out", "accepted"),
        ([("opt_in", "all"), ("opt_out", "all")], "opted_out", "opted_out"),
        ([("opt_out", "all"), ("opt_in", "marketing")], "opted_out", "opted_out"),
        ([("opt_out", "marketing"), ("opt_in", "marketing")], "accepted", "accepted"),
        ([("opt_out", "all"), ("opt_out", "marketing"), ("opt_in", "all")], "accepted", "accepted"),
    ],
)
def test_what_is_recorded_is_what_the_gates_ask(
    database: Database, facts: list[tuple[str, str]], offer: str, plain: str
) -> None:
    land, phone = Land(database, opt_in_required=True), some_phone()
    if facts:
        record(land, *(fact(phone, what, NOON + timedelta(hours=n), of) for n, (what, of) in enumerate(facts)))
    assert (verdict(land, phone, "offer"), verdict(land, phone, "plain")) == (offer, plain)


def test_an_opt_out_recorded_between_enqueue_and_claim_counts(land: Land) -> None:
    item = land.template("offer")
    [queued] = land.enqueue(item)
    record(land, fact(str(item["phone"]), "opt_out"))
    assert messages_of(land.claim()) == []
    message = land.message(queued["message_id"])
    assert (message["state"], message["refusal"]) == ("refused", "opted_out")


# ── Meta's own signals ────────────────────────────────────────────────────────────────────────────


def preference(land: Land, phone: str, value: str, at: float) -> Row:
    content = {"value": value, "category": "marketing_messages", "detail": f"User requested to {value}"}
    return land.writes(phone, at) | {
        "field": "user_preferences",
        "kind": "preference",
        "wamid": None,
        "content": content,
    }


def test_stop_and_resume_at_whatsapp_are_facts_in_whatever_order(land: Land) -> None:
    stopped, resumed = NOON.timestamp(), NOON.timestamp() + 60
    for order in ((0, 1), (1, 0)):
        phone = some_phone()
        events = [preference(land, phone, "stop", stopped), preference(land, phone, "resume", resumed)]
        for n in order:
            land.ingest(events[n])
        # To take back a stop is not to opt in.
        assert standing(land, phone) == (None, None, None)
        assert {(row["how"], row["scope"], row["proof"]) for row in facts_of(land, phone)} == {
            ("meta", "marketing", "User requested to stop"),
            ("meta", "marketing", "User requested to resume"),
        }

    phone = some_phone()
    land.ingest(preference(land, phone, "stop", stopped))
    assert standing(land, phone) == (None, None, NOON)


def test_metas_131050_is_a_fact(land: Land) -> None:
    [message] = land.leased(land.template("offer"))
    land.settle(land.outcome(message, "rejected", code=131050, title="stopped", effect="opt_out"))
    [row] = land.all("select * from whatsapp.consents where country_id = %s", (land.country_id,))
    assert (row["what"], row["scope"], row["how"], row["proof"]) == ("opt_out", "marketing", "meta", "Meta code 131050")
    out = "select count(*) as n from whatsapp.contacts where country_id = %s and marketing_opted_out_at is not null"
    assert land.one(out, (land.country_id,))["n"] == 1


# ── Stop words ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        *(
            "baja",
            "BAJA",
            "Baja",
            " baja \n",
            "¡BAJA!",
            "«Baja».",
            "BÁJA",
            "ba\u0301ja",
            "baja…",
            "**baja**",
            "\u200bbaja\ufe0f",
        ),
        "ｂａｊａ",
    ],
)
def test_spellings_of_a_stop_word(land: Land, text: str) -> None:
    stop_word(land, "¡Baja!")
    phone = some_phone()
    at = float(int(time.time()))
    land.ingest(says(land, phone, text, at))
    assert standing(land, phone) == (None, datetime.fromtimestamp(at, UTC), None)
    [kept] = facts_of(land, phone)
    assert (kept["how"], kept["scope"], kept["proof"]) == ("stop_word", "all", text)


@pytest.mark.parametrize("text", ["quiero darme de baja", "baja.com", "bajas", "b a j a", "", "?!", "baja " * 30])
def test_what_only_contains_a_stop_word_is_a_message(land: Land, text: str) -> None:
    stop_word(land, "baja", reply=BYE)
    phone = some_phone()
    land.ingest(says(land, phone, text))
    assert standing(land, phone) == (None, None, None)
    assert replies(land) == []


def test_a_stop_word_may_be_several_words(land: Land) -> None:
    stop_word(land, "Darme de baja")
    phone = some_phone()
    land.ingest(says(land, phone, "¡darme  de\nBAJA!"))
    assert standing(land, phone)[1] is not None


def test_a_stop_word_on_a_quick_reply_counts_and_on_nothing_else(land: Land) -> None:
    stop_word(land, "baja")
    tapped, other = some_phone(), some_phone()
    button = {"type": "button", "button": {"text": "Baja", "payload": "X"}}
    land.ingest(says(land, tapped, "") | {"content": button})
    land.ingest(
        says(land, other, "") | {"content": {"type": "image", "image": {"caption": "baja"}, "text": {"body": "baja"}}}
    )
    assert standing(land, tapped)[1] is not None
    assert standing(land, other) == (None, None, None)


@pytest.mark.parametrize("kind", ["button_reply", "list_reply"])
def test_a_stop_word_on_a_button_or_in_a_list_of_ours_counts(land: Land, kind: str) -> None:
    stop_word(land, "BAJA")
    tapped = some_phone()
    reply = {"type": kind, kind: {"id": "stop", "title": "Baja"}}
    land.ingest(says(land, tapped, "") | {"content": {"type": "interactive", "interactive": reply}})
    assert standing(land, tapped)[1] is not None


def test_a_stop_word_belongs_to_its_country(land: Land, database: Database) -> None:
    other, phone = Land(database), some_phone()
    stop_word(other, "baja", reply=BYE)
    land.ingest(says(land, phone, "baja"))
    assert standing(land, phone) == (None, None, None)
    assert replies(land) == []


def test_one_spelling_of_a_word_is_enough_and_none_is_refused(land: Land) -> None:
    stop_word(land, "baja")
    with pytest.raises(psycopg.errors.UniqueViolation):
        stop_word(land, "¡BÁJA!")
    with pytest.raises(psycopg.errors.CheckViolation):
        stop_word(land, "¿?")


def test_a_stop_word_is_answered_once_for_each_opt_out(land: Land) -> None:
    stop_word(land, "baja", reply=BYE)
    stop_word(land, "alta", reply="Welcome back.", action="opt_in")
    phone, now = some_phone(), int(time.time()) - 60
    first = says(land, phone, "BAJA", now)
    land.ingest(first, first)
    land.ingest(first)
    assert replies(land) == [BYE]

    land.ingest(says(land, phone, "baja", now + 1), says(land, phone, "¡baja!", now + 2))
    assert replies(land) == [BYE]
    land.ingest(says(land, phone, "alta", now + 3), says(land, phone, "alta", now + 4))
    assert standing(land, phone)[1] is None
    land.ingest(says(land, phone, "baja", now + 5))
    assert replies(land) == [BYE, "Welcome back.", BYE]
    assert len(facts_of(land, phone)) == 6


def test_of_several_words_at_once_the_last_decides(land: Land) -> None:
    stop_word(land, "baja", reply=BYE)
    stop_word(land, "alta", reply="Welcome back.", action="opt_in")
    back, gone, late = some_phone(), some_phone(), some_phone()
    now = int(time.time()) - 60
    land.ingest(says(land, back, "alta", now + 1), says(land, back, "baja", now))
    assert replies(land) == ["Welcome back."]
    land.ingest(says(land, gone, "alta", now), says(land, gone, "baja", now))
    assert replies(land) == ["Welcome back.", BYE]

    # A webhook that comes late changes nothing, so nothing is said.
    land.ingest(says(land, late, "alta", now + 10))
    land.ingest(says(land, late, "baja", now + 5))
    assert standing(land, late)[1] is None
    assert replies(land) == ["Welcome back.", BYE, "Welcome back."]


def test_a_stop_word_without_reply_is_not_answered(land: Land) -> None:
    stop_word(land, "baja")
    phone = some_phone()
    land.ingest(says(land, phone, "baja"))
    assert standing(land, phone)[1] is not None
    assert land.count("queue") == 0


def test_a_stop_word_may_stop_marketing_only(land: Land) -> None:
    stop_word(land, "no promos", scope="marketing", reply=BYE)
    phone = some_phone()
    land.ingest(says(land, phone, "NO PROMOS"))
    assert (verdict(land, phone, "offer"), verdict(land, phone, "plain")) == ("opted_out", "accepted")
    assert replies(land) == [BYE]


def test_only_the_confirmation_passes_the_opt_out_until_the_person_writes_again(land: Land) -> None:
    stop_word(land, "baja", reply=BYE)
    phone, now = some_phone(), int(time.time()) - 60
    land.ingest(says(land, phone, "hola", now))
    before = land.enqueue(land.text(phone), land.template("plain", phone))
    land.ingest(says(land, phone, "baja", now + 10))
    assert [row["code"] for row in land.enqueue(land.text(phone), land.template("plain", phone))] == ["opted_out"] * 2

    # It stood behind the text, which is refused first.
    assert land.claim()["refused"] == 2
    land.run("update whatsapp.queue set run_at = now() where country_id = %s", land.country_id)
    [confirmation] = messages_of(land.claim())
    assert confirmation["content"] == {"type": "text", "text": {"body": BYE}}
    assert {land.message(row["message_id"])["refusal"] for row in before} == {"opted_out"}

    # Meta may refuse the confirmation for now: it still passes when it is claimed again.
    land.settle(land.outcome(confirmation, "retry", code=131000, max_attempts=5))
    [again] = messages_of(land.claim())
    land.settle(land.outcome(again, "accepted", wamid="wamid.bye" + phone))

    land.ingest(says(land, phone, "¿hola?", now + 20))
    assert [row["status"] for row in land.enqueue(land.text(phone), land.template("plain", phone))] == [
        "accepted",
        "refused",
    ]


def test_the_answer_comes_from_the_number_that_was_written_to(land: Land) -> None:
    land.run("insert into whatsapp.accounts (country_id, account_id) values (%s, 'support')", land.country_id)
    stop_word(land, "baja", reply=BYE)
    land.ingest(says(land, some_phone(), "baja") | {"account_id": "support"})
    asked = "select account_id, lane from whatsapp.queue where country_id = %s"
    assert land.all(asked, (land.country_id,)) == [{"account_id": "support", "lane": "reply"}]
