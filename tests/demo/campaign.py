"""The scenes of a campaign: a list with wrong rows, a pause, and a template that Meta pauses in the middle."""

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode

from tests.demo import figures
from tests.demo.audience import Audience, Part, gather
from tests.demo.checks import REACHED, Checks
from tests.demo.screen import Show
from tests.demo.stage import CAMPAIGNS, PATIENCE, Json, Stage, read_json, until
from tests.graph.world import Number

TEMPLATE: Json = {"name": "spring_offer", "language": "es_MX"}
AT_ONCE = 2.0
"""Seconds in which a pause must have taken effect."""
_LOOK = 2.0
"""Seconds to look at a count that must not move."""


@dataclass
class Campaign:
    """A campaign as Ana sees and steers it, beside what the stand-in has heard of it."""

    stage: Stage
    campaign_id: str
    total: int

    @property
    def number(self) -> Number:
        return self.stage.graph.world.number("MX", CAMPAIGNS)

    def arrived(self) -> int:
        return int(self.stage.graph.counts().of(self.number)["arrived"])

    def refused(self) -> int:
        """How many the stand-in has refused because the template is paused."""
        return int(self.stage.graph.counts().of(self.number)["codes"].get(132015, 0))

    def last(self) -> float:
        """When the last one arrived, in unix time."""
        return max(one.wall for one in self.stage.graph.arrived(self.number))

    async def control(self, action: str) -> Json:
        body = {"country_id": "MX", "campaign_id": self.campaign_id, "action": action}
        answer = await self.stage.frontend.functions.invoke("bulk-enqueue", {"method": "PATCH", "body": body})
        return read_json(answer)

    async def progress(self) -> Json:
        query = urlencode({"country_id": "MX", "campaign_id": self.campaign_id})
        return read_json(await self.stage.frontend.functions.invoke(f"status-poll?{query}", {"method": "GET"}))

    async def watch(self, show: Show, enough: Callable[[Json], bool]) -> Json:
        """Show how far it is until that is enough, or patience ends; returns the last answer of status-poll."""
        deadline = time.monotonic() + PATIENCE
        while True:
            seen = await self.progress()
            show({"MX": figures.climbed(seen["states"])})
            if enough(seen) or time.monotonic() > deadline:
                return seen
            await asyncio.sleep(0.1)

    async def look(self, show: Show, seconds: float) -> Json:
        ends = time.monotonic() + seconds
        return await self.watch(show, lambda _: time.monotonic() > ends)


def rate(rows: int) -> int:
    """Messages a second at which a list of so many rows leaves slowly enough to be stopped in the middle."""
    return min(rows // 5, 1000)


async def play(stage: Stage, checks: Checks, rows: int) -> None:
    audience = gather(rows)
    campaign = await load(stage, checks, audience)
    await pause(stage, checks, campaign)
    await template_paused(stage, checks, campaign)
    arrivals(stage, checks, campaign, audience)


async def load(stage: Stage, checks: Checks, audience: Audience) -> Campaign:
    opening, more = audience.opening, audience.more
    rows = len(opening.lines) + len(more.lines)
    stage.screen.scene(f"A campaign: Ana's list has {rows:,} rows, and some of them are wrong")
    stopped = figures.stopped_marketing(stage.owner)
    stage.graph.webhook(_stops_marketing(stage.graph.world.number("MX"), audience.stopped))
    await until(lambda: figures.stopped_marketing(stage.owner) > stopped)
    stage.screen.say(f"signed webhook from the stand-in: {audience.stopped} wants no more marketing")

    named = {"country_id": "MX", "account": CAMPAIGNS, "name": "Spring 2026", "template": TEMPLATE}
    answer = await _bulk_enqueue(stage, "bulk-enqueue", named | {"recipients": opening.recipients()})
    _judge(stage, checks, opening, answer, "JSON")
    query = urlencode({"country_id": "MX", "campaign_id": answer["campaign_id"]})
    appended = await _bulk_enqueue(stage, f"bulk-enqueue?{query}", more.csv())
    _judge(stage, checks, more, appended, "CSV, appended")

    accepted = answer["accepted"] + appended["accepted"]
    stage.sent["MX"] += accepted
    return Campaign(stage, answer["campaign_id"], accepted)


async def pause(stage: Stage, checks: Checks, campaign: Campaign) -> None:
    stage.screen.scene("It leaves; Ana pauses it, and lets it go on")
    with stage.screen.climbing(figures.STATES[1:], ("MX",), campaign.total) as show:
        await campaign.watch(show, lambda _: campaign.arrived() >= campaign.total // 5)
        answer = await campaign.control("pause")
        paused_at = time.time()
        stage.screen.say(f"PATCH bulk-enqueue, pause: {answer['state']}, {answer['reason']}")
        await campaign.look(show, AT_ONCE)
        still = campaign.arrived()
        seen = await campaign.look(show, _LOOK)
        arrived, after = campaign.arrived(), campaign.last() - paused_at
        checks.expect(
            f"the last one arrived {max(after, 0):.1f} s later: {still:,} after {AT_ONCE:.0f} s, {arrived:,} after"
            f" {AT_ONCE + _LOOK:.0f} s",
            (arrived, after <= AT_ONCE),
            (still, True),
        )
        waiting = seen["states"].get("queued", 0)
        checks.expect(f"{waiting:,} wait, and nobody is lost", (waiting > 0, waiting + arrived), (True, campaign.total))
        answer = await campaign.control("resume")
        stage.screen.say(f"PATCH bulk-enqueue, resume: {answer['state']}")
        await campaign.watch(show, lambda _: campaign.arrived() > arrived)


async def template_paused(stage: Stage, checks: Checks, campaign: Campaign) -> None:
    stage.screen.scene("Meta pauses its template in the middle, and approves it again")
    with stage.screen.climbing(figures.STATES[1:], ("MX",), campaign.total) as show:
        await campaign.watch(show, lambda _: campaign.arrived() >= campaign.total * 3 // 5)
        stage.graph.template_status(campaign.number, TEMPLATE["name"], TEMPLATE["language"], "PAUSED")
        seen = await campaign.watch(show, lambda seen: seen["state"] == "paused")
        checks.expect(
            "the campaign paused itself: template_paused",
            (seen["state"], seen["reason"]),
            ("paused", "template_paused"),
        )
        # What had left already is answered 132015 and comes back.
        await campaign.watch(show, lambda seen: "sending" not in seen["states"])
        still = campaign.arrived()
        seen = await campaign.look(show, _LOOK)
        arrived, refused, waiting = campaign.arrived(), campaign.refused(), seen["states"].get("queued", 0)
        checks.expect(f"{still:,} had arrived, and {_LOOK:.0f} s later {arrived:,}", arrived, still)
        checks.expect(
            f"{waiting:,} wait, and nobody is lost: {refused:,} of them Meta refused on arrival",
            (waiting > 0, waiting + arrived - refused, seen["failed_by_code"], seen["refused_by_code"]),
            (True, campaign.total, {}, {}),
        )

        stage.graph.template_status(campaign.number, TEMPLATE["name"], TEMPLATE["language"], "APPROVED")
        seen = await campaign.watch(show, lambda seen: seen["state"] != "paused")
        checks.expect("Meta approves it, and the campaign goes on by itself", seen["state"], "running")
        done = {"read": campaign.total}
        seen = await campaign.watch(show, lambda seen: seen["state"] == "completed" and seen["states"] == done)
        checks.expect(
            f"status-poll: completed, {campaign.total:,} read", (seen["state"], seen["states"]), ("completed", done)
        )


def arrivals(stage: Stage, checks: Checks, campaign: Campaign, audience: Audience) -> None:
    stage.screen.scene("Ana's list compared with what arrived at the stand-in for Meta")
    reach = figures.reach(audience.invited, TEMPLATE["name"], campaign.number.phone_number_id, stage.graph.arrived())
    rows = checks.rows({"MX": reach}, {"MX": campaign.total}, REACHED, "accepted by bulk-enqueue")
    stage.screen.table("people", ["MX"], rows)


async def _bulk_enqueue(stage: Stage, function: str, body: Json | str) -> Json:
    headers = {"Idempotency-Key": str(uuid.uuid4())} | ({"Content-Type": "text/csv"} if isinstance(body, str) else {})
    return read_json(await stage.frontend.functions.invoke(function, {"headers": headers, "body": body}))


def _judge(stage: Stage, checks: Checks, part: Part, answer: Json, how: str) -> None:
    """Show what came back of a call, and check that it is what is wrong with its rows and nothing else."""
    accepted, refused = answer["accepted"], answer["refused"]
    stage.screen.say(
        f"bulk-enqueue, {len(part.lines):,} rows as {how}: 202, {accepted:,} accepted, {len(refused)} refused"
    )
    stage.screen.refused_rows(refused)
    came = [(row["row"], row["code"], row["field"]) for row in refused]
    checks.expect("the wrong rows came back, and no others", (accepted, came), (len(part.good), part.wrong))


def _stops_marketing(number: Number, phone: str) -> Json:
    """The webhook of a person who stops a business's marketing in WhatsApp."""
    said = {"wa_id": phone[1:], "category": "marketing_messages", "value": "stop", "timestamp": int(time.time())}
    metadata = {"display_phone_number": number.display_phone_number, "phone_number_id": number.phone_number_id}
    value = {"messaging_product": "whatsapp", "metadata": metadata, "user_preferences": [said]}
    entry = {"id": number.waba_id, "changes": [{"field": "user_preferences", "value": value}]}
    return {"object": "whatsapp_business_account", "entry": [entry]}
