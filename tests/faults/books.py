"""The comparison: what callers and Meta's stand-in wrote down, against what the database says in the end.

Every acknowledged message must be in exactly one explained end. What breaks a promise is a sentence in `broken`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.faults.ledger import NO, Asked, Callers, Meta, Taken, read_callers, read_meta
from tests.faults.site import POLICIES, Site

Row = dict[str, Any]
SENT = ("accepted", "sent", "delivered", "read", "played")
ENDED = ("failed", "refused", "expired", "cancelled")
_LADDER = ("read", "delivered", "failed", "sent")
"""What is told of a message makes its state: the first of these that was told."""
_SHOWN = 10

_MESSAGES = """
select m.country_id, m.account_id, m.message_id::text, m.ref, m.state, m.kind, m.category, m.error_title, m.error_code,
  coalesce(e.story, '{}') as story
from whatsapp.messages m
left join lateral (
  select array_agg(coalesce(e.detail ->> 'note', e.title) order by e.event_id) as story
  from whatsapp.message_events e
  where e.country_id = m.country_id and e.message_id = m.message_id and e.event in ('message_unknown', 'message_queued')
    and e.title is distinct from 'outcome_unknown' and (e.title is not null or e.detail ->> 'note' is not null)
) e on true
where m.direction = 'outbound'
"""
_COUNTS = """
with counted as (
  select campaign_id, key as state, sum(n) as n from whatsapp.campaign_counts where key !~ ':'
  group by 1, 2 having sum(n) <> 0
),
there as (select campaign_id, state, count(*) as n from whatsapp.messages where campaign_id is not null group by 1, 2)
select campaign_id::text, state, c.n as counted, m.n as there
from counted c full join there m using (campaign_id, state)
where c.n is distinct from m.n
"""
_LEFT_OVER = {
    "rows in the queue": """
        select q.country_id, q.account_id, q.lane, count(*) as rows, min(q.run_at) - now() as due,
          bool_or(l.paused) as paused, min(l.held_reason) as held, count(q.unknown_until) as unknown,
          count(q.lease_id) as leased, min(a.state) as account, min(a.templates_paused_until) as templates,
          min(t.held_until) - now() as rests, min(t.next_slot_at) - now() as slot
        from whatsapp.queue q
        join whatsapp.lanes l using (country_id, account_id, lane)
        join whatsapp.accounts a using (country_id, account_id)
        left join whatsapp.throttles t using (country_id, account_id)
        group by 1, 2, 3""",
    "parked statuses": "select country_id, account_id, wamid from whatsapp.parked_statuses",
    "webhooks nobody could read": """
        select country_id, event_key, outcome, payload from whatsapp.webhook_events
        where outcome in ('unparsable', 'unroutable')""",
    "campaigns that have not ended": """
        select country_id, account_id, campaign_id, state, state_reason from whatsapp.campaigns
        where state not in ('completed', 'cancelled')""",
}


@dataclass
class Books:
    """What came out. `broken` is empty if every promise was kept."""

    figures: dict[str, int] = field(default_factory=dict)
    states: Counter[str] = field(default_factory=Counter)
    unknowns: Counter[str] = field(default_factory=Counter)
    doubles: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def claim(self, promise: str, offenders: Iterable[object]) -> int:
        """Note that a promise is broken by these; returns how many there are."""
        found = list(offenders)
        if found:
            shown = "; ".join(_words(each) for each in found[:_SHOWN])
            self.broken.append(f"{promise}: {len(found)} ({shown}{' …' if len(found) > _SHOWN else ''})")
        return len(found)


def _words(offender: object) -> str:
    if isinstance(offender, dict):
        return ", ".join(f"{name} {value}" for name, value in offender.items() if value not in (None, False, 0))
    return str(offender)


def compare(site: Site) -> Books:
    """Read the files and the database, and compare them."""
    callers, meta = read_callers(site.folder / "callers.jsonl"), read_meta(site.folder / "meta.jsonl")
    messages = {row["message_id"]: row for row in site.all(_MESSAGES)}
    books = Books()
    acknowledged = callers.acknowledged
    lost = _check_acknowledged(books, callers, acknowledged, messages.values())
    lost += _check_ends(books, messages.values(), meta)
    crossed = _check_crossed(books, site, callers, messages, meta)
    policy, broken = _check_doubles(books, messages, meta)
    _check_inbound(books, site, callers, meta)
    for what, query in _LEFT_OVER.items():
        books.claim(f"{what} are left over", site.all(query))
    books.claim("counts of campaigns differ from their messages' states", site.all(_COUNTS))
    books.states.update(row["state"] for row in messages.values())
    books.figures = {
        "asked": len(callers.asked),
        "acknowledged": len(acknowledged),
        "posted to Meta": meta.posted.total(),
        "accepted by Meta": sum(map(len, meta.taken.values())),
        "lost": lost,
        "doubled, against the promise": broken,
        "doubled by policy (requeue_once, no webhook ever came)": policy,
        "crossed": crossed,
        "ended unknown": books.unknowns.total(),
        "of these never posted": sum(n for cause, n in books.unknowns.items() if cause.startswith("never posted")),
        "inbound messages": len(callers.wrote),
        "webhooks told": sum(map(len, meta.told.values())),
    }
    return books


def _check_acknowledged(books: Books, callers: Callers, acknowledged: list[Asked], messages: Iterable[Row]) -> int:
    """Whoever was told yes has exactly one message, the one they were told of."""
    by_ref: dict[str, list[Row]] = defaultdict(list)
    for row in messages:
        by_ref[row["ref"]].append(row)
    books.claim("one request made two messages", (ref for ref, rows in by_ref.items() if len(rows) > 1))
    books.claim(
        "two answers to one key named different messages", (ref for ref, ids in callers.ids.items() if len(ids) > 1)
    )
    books.claim(
        "an answer named another message than there is",
        (ref for ref, ids in callers.ids.items() if ids != {row["message_id"] for row in by_ref[ref]}),
    )
    # A try without an answer may still be under way when the next one is told no, and then find the way open.
    refused = (ref for ref, rows in by_ref.items() if rows and callers.answers[ref] == [NO])
    books.claim("a message is there although its caller was told no", refused)
    return books.claim(
        "acknowledged, and not in the database", (each.ref for each in acknowledged if not by_ref[each.ref])
    )


def _check_ends(books: Books, messages: Iterable[Row], meta: Meta) -> int:
    """Each message is in an end that what happened at Meta explains. Returns how many are lost."""
    lost, unfinished, untold, unexplained, still_unknown = [], [], [], [], []
    for row in messages:
        message_id, state = row["message_id"], row["state"]
        taken = meta.taken.get(message_id, [])
        told = set().union(*(meta.told.get(copy.wamid, set()) for copy in taken))
        unknown = row["error_title"] == "outcome_unknown"
        best = next((status for status in _LADDER if status in told), None)
        named = f"{message_id} is {state}"
        if state not in SENT + ENDED:
            unfinished.append(named)
        elif state in SENT and not taken:
            lost.append(f"{named}, and Meta never took it")
        elif best is not None and (state != best or unknown):
            untold.append(f"{named}, though {best} was told{', and still outcome_unknown' if unknown else ''}")
        elif unknown:
            books.unknowns[_cause(row, taken, meta)] += 1
            if any(copy.wamid not in meta.mute for copy in taken) and best is None:
                still_unknown.append(f"{named}: {row['story']}")
        elif state == "failed" and not taken and not meta.refused.get(message_id):
            unexplained.append(f"{named}: {row['error_code']} {row['error_title']}")
        elif state in ("refused", "expired", "cancelled") and taken:
            unexplained.append(f"{named}, and Meta took it")
    books.claim("in no end", unfinished)
    books.claim("a status that was answered 200 is not what the message says", untold)
    books.claim("ended as unknown although no webhook of it was lost on purpose", still_unknown)
    books.claim("an end that nothing explains", unexplained)
    return books.claim("the log says sent, and Meta never took it", lost) + len(unfinished)


def _cause(row: Row, taken: list[Taken], meta: Meta) -> str:
    if taken:
        where = "taken by Meta, answer and webhooks lost"
    else:
        where = "posted, not taken" if meta.posted[row["message_id"]] else "never posted"
    return f"{where} ({', '.join(dict.fromkeys(map(str, row['story']))) or 'no story'})"


def _check_crossed(books: Books, site: Site, callers: Callers, messages: dict[str, Row], meta: Meta) -> int:
    """What left, left from the number it was asked of, to the person it was asked for."""
    numbers = {number.phone_number_id: (number.country_id, number.account_id) for number in site.graph.world.numbers}
    crossed = []
    for message_id, copies in meta.taken.items():
        row = messages.get(message_id)
        asked = callers.asked.get(row["ref"]) if row else None
        if asked is None:
            crossed.append(f"nobody asked for {message_id}")
            continue
        for copy in copies:
            wanted = (asked.country_id, asked.account_id, asked.phone.lstrip("+"))
            if (*numbers[copy.number_id], copy.to.lstrip("+")) != wanted:
                crossed.append(f"{message_id} went to {copy.to[:5]}… from {numbers[copy.number_id]}")
    return books.claim("sent from another number or to another person", crossed)


def _check_doubles(books: Books, messages: dict[str, Row], meta: Meta) -> tuple[int, int]:
    """Messages Meta took twice: (by policy, against the promise)."""
    policy: list[str] = []
    broken: list[str] = []
    for message_id, copies in meta.taken.items():
        if len(copies) < 2:
            continue
        row = messages[message_id]
        allowed = (
            len(copies) == 2
            and POLICIES[row["account_id"]] == "requeue_once"
            and row["category"] != "MARKETING"
            and copies[0].wamid in meta.mute
            and "proved_unsent" in row["story"]
        )
        account, story = f"{row['country_id']}/{row['account_id']}", ", ".join(map(str, row["story"]))
        (policy if allowed else broken).append(f"{message_id} ({account}, {row['kind']}): {story}")
    books.doubles = policy
    return len(policy), books.claim("sent twice", broken)


def _check_inbound(books: Books, site: Site, callers: Callers, meta: Meta) -> None:
    """Each customer's message is in the database once, under the number it was written to."""
    rows = site.all(
        "select country_id, account_id, wamid, count(*) as n from whatsapp.messages where direction = 'inbound'"
        " group by 1, 2, 3"
    )
    there = {row["wamid"]: row for row in rows}
    answered = [wamid for wamid in callers.wrote if "received" in meta.told.get(wamid, ())]
    books.claim(
        "a webhook was answered 200, and its message is not there", (each for each in answered if each not in there)
    )
    books.claim("a customer's message was never taken", (each for each in callers.wrote if each not in there))
    books.claim("a customer's message is there twice", (wamid for wamid, row in there.items() if row["n"] > 1))
    books.claim(
        "a customer's message is under another number",
        (
            each
            for each, account in callers.wrote.items()
            if each in there and (there[each]["country_id"], there[each]["account_id"]) != account
        ),
    )
