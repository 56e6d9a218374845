"""The people around the product: callers who ask and repeat until they are answered, customers who write, and cron."""

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx
from httpx_aiohttp import AiohttpTransport

from tests.faults.ledger import NO, NOTHING, YES, Book
from tests.faults.site import COUNTRIES, POLICIES, Site, Worker
from tests.graph.world import random_phone

Json = dict[str, Any]
PASSING = (408, 425, 429)
"""Statuses below 500 that ask for patience."""
_AT_ONCE = 100
"""Calls of all callers under way. Without a bound an outage of minutes leaves thousands of callers who ask every two
seconds, and from then on nobody is answered any more: not even this process's own part of the experiment."""
_LANGUAGE = {"code": "es_MX"}
OFFER: Json = {"name": "spring_offer", "language": "es_MX"}
PLAIN: Json = {"name": "plain", "language": "es_MX"}


@dataclass
class Volume:
    """How much is asked, within `seconds`: `bulk` of the messages by campaigns of `rows` recipients a call."""

    messages: int
    seconds: float
    bulk: float = 0.7
    rows: int = 200
    calls: int = 4
    inbound: float = 0.1
    """Customers' messages, as a share of ours."""


class Traffic:
    """All that goes in. `run` ends when every caller has an answer or has given up."""

    def __init__(self, site: Site, volume: Volume, random: Random) -> None:
        self._site, self._volume, self._random = site, volume, random
        self._book = Book(site.folder / "callers.jsonl")
        self._accounts = [(country, account) for country in COUNTRIES for account in POLICIES]
        self._writers: list[tuple[str, str, str]] = []
        self._http = httpx.AsyncClient(base_url=site.url, timeout=15, trust_env=False, transport=AiohttpTransport())
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self.asked = 0

    async def close(self) -> None:
        await self._http.aclose()

    # what there is to do

    async def run(self) -> None:
        volume = self._volume
        singles = round(volume.messages * (1 - volume.bulk))
        campaigns = max(1, round((volume.messages - singles) / volume.rows / volume.calls))
        await asyncio.gather(
            self._spread(campaigns, self._campaign),
            self._spread(singles, self._single),
            self._spread(round(volume.messages * volume.inbound), self._customer),
        )

    async def _spread(self, times: int, act: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        """`times` acts at random moments of the run, each as a task of its own."""
        loop, begin = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        moments = sorted(self._random.uniform(0, self._volume.seconds) for _ in range(times))
        async with asyncio.TaskGroup() as tasks:
            for number, moment in enumerate(moments):
                await asyncio.sleep(begin + moment - loop.time())
                tasks.create_task(act(number))

    # customers

    async def _customer(self, number: int) -> None:
        country, account = self._random.choice(self._accounts)
        await self.customer_writes(country, account, random_phone(country, self._random))

    async def customer_writes(self, country: str, account: str, phone: str) -> None:
        sender = self._site.graph.world.number(country, account)
        text = f"hola {uuid.uuid4()}"
        wamid = await asyncio.to_thread(self._site.graph.customer_writes, sender, phone[1:], text)
        self._book.write("wrote", wamid, country, account)
        self._writers.append((country, account, phone))

    # callers

    async def _single(self, number: int) -> None:
        """A template to somebody, or an answer to somebody who wrote."""
        ref = str(uuid.uuid4())
        if self._writers and self._random.random() < 0.3:
            country, account, phone = self._random.choice(self._writers[-200:])
            message: Json = {"type": "text", "text": {"body": f"hola {ref}"}}
        else:
            country, account = self._random.choice(self._accounts)
            phone = random_phone(country, self._random)
            parameters = [{"type": "text", "text": text} for text in ("Ana", ref)]
            body = [{"type": "body", "parameters": parameters}]
            template = {"name": "order_update", "language": _LANGUAGE, "components": body}
            message = {"type": "template", "template": template}
        call = {"country_id": country, "account": account, "to": phone, "message": message, "ref": ref}
        self._ask(ref, country, account, phone)
        answer = await self._persist("/send", call, ref, [ref])
        if answer is not None and answer.status_code == 202:
            self._book.write("answered", ref, YES, answer.json()["message_id"])
        elif answer is not None:
            self._book.write("answered", ref, NO, answer.json()["code"])

    async def _campaign(self, number: int) -> None:
        """Several calls of one campaign, a part of them at once."""
        country, account = self._random.choice(self._accounts)
        template = self._random.choice((OFFER, PLAIN))
        opening = {"country_id": country, "account": account, "name": f"campaign {number}", "template": template}
        campaign_id = await self._recipients(country, account, template, opening)
        if campaign_id is not None:
            more = {"country_id": country, "campaign_id": campaign_id}
            calls = (self._recipients(country, account, template, more) for _ in range(self._volume.calls - 1))
            await asyncio.gather(*calls)

    async def _recipients(self, country: str, account: str, template: Json, call: Json) -> str | None:
        """One call with its recipients; gives the campaign's id."""
        rows: list[Json] = []
        for _ in range(self._volume.rows):
            ref, phone = str(uuid.uuid4()), random_phone(country, self._random)
            parameters = {"header.image": "https://shop.example/a.jpg", "body.1": "Ana"} if template is OFFER else {}
            rows.append({"to": phone, "parameters": parameters, "ref": ref})
            self._ask(ref, country, account, phone)
        refs = [row["ref"] for row in rows]
        answer = await self._persist("/bulk-enqueue", call | {"recipients": rows}, str(uuid.uuid4()), refs)
        if answer is None:
            return None
        said, took = answer.json(), answer.status_code == 202
        refused = {row["row"]: row["code"] for row in said["refused"]} if took else {}
        for number, ref in enumerate(refs, 1):
            code = refused.get(number) if took else said["code"]
            self._book.write("answered", ref, NO if code else YES, code or "")
        return str(said["campaign_id"]) if took else None

    def _ask(self, ref: str, country: str, account: str, phone: str) -> None:
        self._book.write("asked", ref, country, account, phone)
        self.asked += 1

    async def _persist(self, path: str, call: Json, key: str, refs: Sequence[str]) -> httpx.Response | None:
        """Ask until there is an answer that stands, with the same key each time; a few callers give up at once. Some
        ask again though they were answered: nothing may come of it."""
        headers = {"apikey": self._site.stack.secret_key, "idempotency-key": key}
        patience = 1 if self._random.random() < 0.02 else 200
        for attempt in itertools.count(1):
            try:
                async with self._at_once:
                    answer = await self._http.post(path, json=call, headers=headers)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code < 500 and answer.status_code not in PASSING:
                if self._random.random() < 0.05:
                    await self._again(path, call, headers, answer)
                return answer
            for ref in refs:
                self._book.write("answered", ref, NOTHING, "")
            if attempt >= patience:
                return None
            await asyncio.sleep(min(2, 0.1 * 2**attempt) * self._random.uniform(0.5, 1))
        raise AssertionError("unreachable")

    async def _again(self, path: str, call: Json, headers: dict[str, str], before: httpx.Response) -> None:
        with contextlib.suppress(httpx.TransportError):
            again = await self._http.post(path, json=call, headers=headers)
            if again.status_code == before.status_code == 202 and "message_id" in again.json():
                self._book.write("answered", call["ref"], YES, again.json()["message_id"])


async def cron(site: Site) -> None:
    """Calls each drainer again and again, for ever, as a scheduler does that does not look at answers."""
    headers = {"apikey": site.stack.secret_key}
    async with httpx.AsyncClient(timeout=30, trust_env=False, headers=headers) as http:

        async def tick(worker: Worker) -> None:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if worker.pid:
                        await http.post(f"{worker.url}/queue-drain", json={"budget_seconds": 8})
                await asyncio.sleep(0.5)

        await asyncio.gather(*(tick(worker) for worker in (*site.drainers, *site.extra)))
