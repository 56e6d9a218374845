"""Meta's error table: every code we know has a decision, and no error of Meta's can surprise or leak."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.whatsapp.meta.errors import (
    RANGES,
    TABLE,
    Disposition,
    Effect,
    MetaError,
    from_graph,
    from_webhook,
    lookup,
)

DOCUMENTED = [
    *(0, 1, 2, 3, 4, 10, 33, 100, 104, 190, 192, 200, 219, 299, 368, 506, 613, 80007, 80008),
    *(130403, 130429, 130472, 130497, 131000, 131005, 131008, 131009, 131016, 131020, 131021, 131026, 131030),
    *(131031, 131037, 131041, 131042, 131043, 131044, 131045, 131047, 131048, 131049, 131050, 131051, 131052),
    *(131053, 131055, 131056, 131057, 131059, 131060, 131061, 131062, 131063, 131064, 131065, 131070),
    *(131201, 131215, 132000, 132001, 132005, 132007, 132008, 132012, 132015, 132016, 132018, 132068, 132069),
    *(133000, 133004, 133005, 133006, 133008, 133009, 133010, 133015, 133016, 134011, 134100, 134101, 134102, 134103),
    *(141000, 141006, 141010),
    *(135000, 136024, 137000, 138000, 138001, 138018, 139000, 139004, 139100, 139101, 139102, 139103),
    *(147001, 147005, 200002, 200005, 200007, 1752041, 2388001, 2388012, 2388019, 2388039, 2388040, 2388047),
    *(2388072, 2388073, 2388091, 2388093, 2388103, 2388293, 2388299, 2494100, 2494164, 2494179, 2494191),
    *(2593079, 2593085, 2593107, 2593108, 2593109),
]
DAY = 86_400
DECISIONS: dict[int, tuple[Disposition, Effect, int, int]] = {
    0: (Disposition.HOLD, Effect.STOP_ACCOUNT, 0, 0),
    1: (Disposition.RETRY, Effect.NONE, 0, 2),
    2: (Disposition.RETRY, Effect.NONE, 0, 5),
    4: (Disposition.WAIT, Effect.SLOW_DOWN, 60, 0),
    10: (Disposition.HOLD, Effect.STOP_ACCOUNT, 0, 0),
    100: (Disposition.PERMANENT, Effect.NONE, 0, 0),
    190: (Disposition.HOLD, Effect.STOP_ACCOUNT, 0, 0),
    200: (Disposition.HOLD, Effect.STOP_ACCOUNT, 0, 0),
    299: (Disposition.HOLD, Effect.STOP_ACCOUNT, 0, 0),
    368: (Disposition.HOLD, Effect.POLICY_BLOCK, DAY, 0),
    80007: (Disposition.WAIT, Effect.NONE, 60, 0),
    80008: (Disposition.WAIT, Effect.NONE, 60, 0),
    130429: (Disposition.WAIT, Effect.SLOW_DOWN, 5, 0),
    130472: (Disposition.PERMANENT, Effect.COOL_CONTACT, 30 * DAY, 0),
    131000: (Disposition.RETRY, Effect.NONE, 0, 3),
    131005: (Disposition.HOLD, Effect.STOP_ACCOUNT, 0, 0),
    131026: (Disposition.PERMANENT, Effect.COOL_CONTACT, 30 * DAY, 0),
    131031: (Disposition.HOLD, Effect.PAUSE_ACCOUNT, 0, 0),
    131042: (Disposition.HOLD, Effect.PAUSE_ACCOUNT, 0, 0),
    131047: (Disposition.PERMANENT, Effect.CLOSE_WINDOW, 0, 0),
    131048: (Disposition.HOLD, Effect.PAUSE_TEMPLATES, DAY, 0),
    131049: (Disposition.PERMANENT, Effect.COOL_CONTACT, DAY, 0),
    131050: (Disposition.PERMANENT, Effect.OPT_OUT, 0, 0),
    131053: (Disposition.RETRY, Effect.NONE, 0, 2),
    131056: (Disposition.WAIT, Effect.PAIR_WAIT, 1, 0),
    131057: (Disposition.WAIT, Effect.PAUSE_ACCOUNT, 60, 0),
    131064: (Disposition.HOLD, Effect.PAUSE_TEMPLATES, DAY, 0),
    132000: (Disposition.PERMANENT, Effect.REFRESH_TEMPLATE, 0, 0),
    132001: (Disposition.HOLD, Effect.REFRESH_TEMPLATE, 20 * 60, 3),
    132015: (Disposition.HOLD, Effect.PAUSE_TEMPLATE, 3 * 3_600, 0),
    132016: (Disposition.PERMANENT, Effect.DISABLE_TEMPLATE, 0, 0),
    132018: (Disposition.PERMANENT, Effect.REFRESH_TEMPLATE, 0, 0),
    132069: (Disposition.WAIT, Effect.REST_TEMPLATE, 3_600, 0),
    133010: (Disposition.HOLD, Effect.STOP_ACCOUNT, 0, 0),
    134103: (Disposition.PERMANENT, Effect.NONE, 0, 0),
    138010: (Disposition.PERMANENT, Effect.NONE, 0, 0),
}


@pytest.mark.parametrize("code", DOCUMENTED)
def test_every_documented_code_is_known(code: int) -> None:
    row = lookup(code)
    assert row.known
    assert row.code == code
    assert row.title
    assert row.advice.endswith(".")


@pytest.mark.parametrize("code", DECISIONS)
def test_decision(code: int) -> None:
    row = lookup(code)
    assert (row.disposition, row.effect, row.wait_seconds, row.attempts) == DECISIONS[code]


ROWS = [*TABLE.values(), *(row for _, row in RANGES)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.code))
def test_a_row_never_loops_nor_contradicts_itself(row: MetaError) -> None:
    if row.disposition is Disposition.RETRY:
        assert row.attempts > 0
    if row.disposition is Disposition.WAIT:
        assert row.wait_seconds > 0
    if row.disposition is Disposition.HOLD:
        assert row.effect in (
            Effect.STOP_ACCOUNT,
            Effect.PAUSE_ACCOUNT,
            Effect.PAUSE_TEMPLATES,
            Effect.POLICY_BLOCK,
            Effect.PAUSE_TEMPLATE,
            Effect.REFRESH_TEMPLATE,
        )
    if row.effect in (Effect.COOL_CONTACT, Effect.PAUSE_TEMPLATES, Effect.POLICY_BLOCK):
        assert row.wait_seconds >= DAY


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (1752041, "Marketing Messages API"),
        (2388001, "number cannot be migrated"),
        (2593079, "moved to another solution"),
        (2593085, "cannot be moved"),
    ],
)
def test_a_title_says_what_it_is_about(code: int, what: str) -> None:
    assert what in lookup(code).title


def test_no_code_is_in_the_table_and_in_a_range() -> None:
    assert [code for code in TABLE for codes, _ in RANGES if code in codes] == []


@pytest.mark.parametrize("code", [None, -1, 199, 300, 138019, 999_999])
def test_an_unknown_code_is_permanent_unless_meta_calls_it_transient(code: int | None) -> None:
    row, transient = lookup(code), lookup(code, transient=True)
    assert (row.known, row.disposition, row.effect) == (False, Disposition.PERMANENT, Effect.NONE)
    assert (transient.known, transient.disposition, transient.attempts) == (False, Disposition.RETRY, 3)


@pytest.mark.parametrize("code", [None, 999_999])
def test_a_throttled_call_waits_whatever_its_code(code: int | None) -> None:
    row = lookup(code, transient=True, throttled=True)
    assert (row.known, row.disposition, row.effect, row.wait_seconds) == (False, Disposition.WAIT, Effect.SLOW_DOWN, 60)


def test_a_subcode_tells_a_number_that_is_not_ours_from_a_wrong_parameter() -> None:
    row = lookup(100, subcode=33)
    assert (row.disposition, row.effect, row.known) == (Disposition.HOLD, Effect.STOP_ACCOUNT, True)
    assert lookup(100, subcode=34) == lookup(100)
    assert lookup(131047, subcode=33) == lookup(131047)


def test_a_known_code_stays_what_it_is_even_if_transient() -> None:
    assert lookup(131047, transient=True) == lookup(131047)


def test_an_answer_of_graph_is_explained() -> None:
    error = {
        "message": "(#130429) Rate limit hit",
        "type": "OAuthException",
        "code": 130429,
        "error_data": {"messaging_product": "whatsapp", "details": "Message failed to send: too many messages."},
        "fbtrace_id": "Az8or2yhqkZfEZ-_4Qn_Bam",
    }
    assert from_graph(error).as_dict() == {
        "code": 130429,
        "title": "Throughput limit of the number reached",
        "details": "Message failed to send: too many messages.",
        "advice": "Nothing to do: it is tried again automatically.",
        "disposition": "wait",
        "effect": "slow_down",
        "wait_seconds": 5,
        "attempts": 0,
        "known": True,
        "fbtrace_id": "Az8or2yhqkZfEZ-_4Qn_Bam",
    }
    assert from_graph({"error": error}) == from_graph(error)


@pytest.mark.parametrize(
    ("error", "details"),
    [
        ({"code": 100, "error_data": "plain text"}, "plain text"),
        ({"code": 100, "error_data": {}, "message": "(#100) Invalid parameter"}, "Invalid parameter"),
        ({"code": 100, "error_data": {"details": 7}, "error_user_msg": "Look here"}, "Look here"),
        ({"code": 100, "error_data": None, "title": "Only a title"}, "Only a title"),
        ({"code": 100}, None),
        ({"code": 100, "message": "   "}, None),
    ],
)
def test_details_are_the_most_telling_words(error: dict[str, Any], details: str | None) -> None:
    assert from_graph(error).details == details


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("Object with ID '106540352242922' does not exist", "Object with ID '…' does not exist"),
        ("Recipient +52 1 55 1234 5678 not in list", "Recipient … not in list"),
        ("Malformed access token EAAGm0PX4ZCpsBAKZCx9", "Malformed access token …"),
        ("Malformed access token abcdefghijklmnopqrstuv", "Malformed access token …"),
        ("Session has expired on Tuesday, 24-Nov-26", "Session has expired on Tuesday, 24-Nov-26"),
        ("Parameter 2 has 1025 characters, at most 1024", "Parameter 2 has 1025 characters, at most 1024"),
        ("a\0b", "ab"),
        ("a\ud800b", "a?b"),
    ],
)
def test_words_of_meta_show_no_id_phone_or_token(words: str, shown: str) -> None:
    assert from_graph({"code": 100, "error_data": {"details": words}}).details == shown
    assert from_webhook({"code": 999_999, "title": words}).title == shown


@pytest.mark.parametrize(
    ("code", "read"),
    [("131047", 131047), (131047, 131047), (True, None), (1.5, None), ("x", None), ({}, None), (10**30, None)],
)
def test_codes_come_as_number_or_text(code: object, read: int | None) -> None:
    assert from_webhook({"code": code}).code == read


@pytest.mark.parametrize("trace", ["a b", "", 7, None, "x" * 65, "a\n"])
def test_a_strange_trace_id_is_left_out(trace: object) -> None:
    assert from_graph({"code": 1, "fbtrace_id": trace}).fbtrace_id is None


KEYS = st.sampled_from(["error", "code", "error_data", "details", "message", "title", "is_transient", "fbtrace_id"])
GARBAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(), inner, max_size=5),
    max_leaves=12,
)


@given(GARBAGE)
def test_any_garbage_gives_a_failure_that_can_be_stored(error: Any) -> None:
    for failure in (from_graph(error), from_webhook(error)):
        written = json.dumps(failure.as_dict(), ensure_ascii=False)
        assert written.encode()
        assert "\0" not in (failure.details or "") + failure.title
        assert failure.title
