"""Every kind of outbound message: what Meta documents reaches Meta as it was given, and every limit holds exactly."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.whatsapp.meta.envelope import graph_body
from services.whatsapp.meta.messages import KINDS, InvalidMessage, parse_message
from tests.graph.messages import read
from tests.graph.people import People
from tests.graph.world import World

PAYLOADS = sorted((Path(__file__).parents[3] / "payloads" / "messages").glob("*.json"))
OUR_ID = "0192f5a4-7b1c-7c3e-9d2a-1b2c3d4e5f60"
ENVELOPE = {"messaging_product", "recipient_type", "to", "biz_opaque_callback_data"}
INTERACTIVE = {
    "button", "list", "cta_url", "flow", "location_request_message", "request_contact_info", "product", "product_list",
    "catalog_message", "carousel",
}  # fmt: skip
LINK = "https://shop.example/a"


def payload(name: str) -> dict[str, Any]:
    path = PAYLOADS[0].parent / f"{name}.json"
    message: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["message"]
    return message


def written(message: dict[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=False, sort_keys=True).encode()


@pytest.mark.parametrize("path", PAYLOADS, ids=lambda path: path.stem)
def test_what_meta_documents_reaches_meta_as_it_was_given(path: Path) -> None:
    given = payload(path.stem)
    content = json.loads(json.dumps(parse_message(given).content()))
    body = graph_body(content, to="+525512345678", recipient=None, message_id=OUR_ID)

    assert written({name: part for name, part in body.items() if name not in ENVELOPE}) == written(given)
    world = World.random()
    letter = read(body, world.numbers[0], world, People(world.salt, world.wa_ids))
    assert (letter.type, letter.callback_data) == (given["type"], OUR_ID)


def test_every_kind_has_an_example_and_a_free_form_one_names_no_template() -> None:
    examples = [payload(path.stem) for path in PAYLOADS]
    assert {example["type"] for example in examples} == set(KINDS)
    assert {each["interactive"]["type"] for each in examples if each["type"] == "interactive"} == INTERACTIVE
    named = {each["type"] for each in examples if parse_message(each).template_key is not None}
    assert named == {"template"}


# ── Limits ────────────────────────────────────────────────────────────────────────────────────────


def media(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, kind: {"id": "1"} | more}


def interactive(kind: str, **more: Any) -> dict[str, Any]:
    actions: dict[str, Any] = {
        "button": {"buttons": [reply(0)]},
        "list": {"button": "Ver", "sections": [{"rows": [row(0)]}]},
        "cta_url": link(),
        "flow": flow(),
        "location_request_message": {"name": "send_location"},
        "request_contact_info": {"name": "request_contact_info"},
        "product": {"catalog_id": "1", "product_retailer_id": "a"},
        "product_list": products(1),
        "catalog_message": {"name": "catalog_message"},
        "carousel": {"cards": [card(0), card(1)]},
    }
    content = {"type": kind, "body": {"text": "a"}, "action": actions[kind]}
    if kind == "product_list":
        content["header"] = {"type": "text", "text": "a"}
    return {"type": "interactive", "interactive": content | more}


def reply(number: int, **more: Any) -> dict[str, Any]:
    return {"type": "reply", "reply": {"id": f"id-{number}", "title": f"t-{number}"} | more}


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"id-{number}", "title": "a"} | more


def rows(**more: Any) -> dict[str, Any]:
    return interactive("list", action={"button": "Ver", "sections": [{"rows": [row(0, **more)]}]})


def link(**more: Any) -> dict[str, Any]:
    return {"name": "cta_url", "parameters": {"display_text": "Ver", "url": LINK} | more}


def flow(**more: Any) -> dict[str, Any]:
    return {"name": "flow", "parameters": {"flow_message_version": "3", "flow_id": "1", "flow_cta": "Ver"} | more}


def products(number: int, sections: int = 1, title: str = "a") -> dict[str, Any]:
    items = [{"product_retailer_id": f"sku-{one}"} for one in range(number)]
    return {"catalog_id": "1", "sections": [{"title": title, "product_items": items}] * sections}


def card(number: int, **more: Any) -> dict[str, Any]:
    header = {"type": "image", "image": {"link": LINK}}
    return {"card_index": number, "type": "cta_url", "header": header, "action": link()} | more


def cards(*listed: dict[str, Any]) -> dict[str, Any]:
    return interactive("carousel", action={"cards": list(listed)})


def person(**more: Any) -> dict[str, Any]:
    return {"name": {"formatted_name": "Ana López", "first_name": "Ana"}} | more


def words(limit: int) -> str:
    return f"must have at most {limit} characters; shorten it"


def few(limit: int) -> str:
    return f"takes at most {limit} of them; leave some out"


ON_EARTH = "latitude must be within -90..90 and longitude within -180..180"
I = "message.interactive"  # noqa: E741 - the one word of every path below
LIMITS: list[tuple[int, Callable[[int], dict[str, Any]], str, str]] = [
    (4_096, lambda n: {"type": "text", "text": {"body": "x" * n}}, "message.text.body", words(4_096)),
    *(
        (1_024, lambda n, kind=kind: media(kind, caption="x" * n), f"message.{kind}.caption", words(1_024))
        for kind in ("image", "video", "document")
    ),
    (257, lambda n: {"type": "contacts", "contacts": [person()] * n}, "message.contacts", few(257)),
    *(
        (1_024, lambda n, kind=kind: interactive(kind, body={"text": "x" * n}), f"{I}.body.text", words(1_024))
        for kind in sorted(INTERACTIVE - {"list"})
    ),
    (4_096, lambda n: interactive("list", body={"text": "x" * n}), f"{I}.body.text", words(4_096)),
    *(
        (60, lambda n, kind=kind: interactive(kind, footer={"text": "x" * n}), f"{I}.footer.text", words(60))
        for kind in ("button", "list", "cta_url", "flow", "product", "product_list", "catalog_message")
    ),
    *(
        (
            60,
            lambda n, kind=kind: interactive(kind, header={"type": "text", "text": "x" * n}),
            f"{I}.header.text",
            words(60),
        )
        for kind in ("button", "list", "cta_url", "flow", "product_list")
    ),
    (
        3,
        lambda n: interactive("button", action={"buttons": [reply(one) for one in range(n)]}),
        f"{I}.action.buttons",
        few(3),
    ),
    (
        20,
        lambda n: interactive("button", action={"buttons": [reply(0, title="x" * n)]}),
        f"{I}.action.buttons[0].reply.title",
        words(20),
    ),
    (
        256,
        lambda n: interactive("button", action={"buttons": [reply(0, id="x" * n)]}),
        f"{I}.action.buttons[0].reply.id",
        words(256),
    ),
    (
        20,
        lambda n: interactive("list", action={"button": "x" * n, "sections": [{"rows": [row(0)]}]}),
        f"{I}.action.button",
        words(20),
    ),
    (
        10,
        lambda n: interactive(
            "list", action={"button": "a", "sections": [{"title": "a", "rows": [row(one)]} for one in range(n)]}
        ),
        f"{I}.action.sections",
        few(10),
    ),
    (
        10,
        lambda n: interactive("list", action={"button": "a", "sections": [{"rows": [row(one) for one in range(n)]}]}),
        f"{I}.action",
        "at most 10 rows in all sections together: leave some out",
    ),
    (
        24,
        lambda n: interactive("list", action={"button": "a", "sections": [{"title": "x" * n, "rows": [row(0)]}]}),
        f"{I}.action.sections[0].title",
        words(24),
    ),
    (200, lambda n: rows(id="x" * n), f"{I}.action.sections[0].rows[0].id", words(200)),
    (24, lambda n: rows(title="x" * n), f"{I}.action.sections[0].rows[0].title", words(24)),
    (72, lambda n: rows(description="x" * n), f"{I}.action.sections[0].rows[0].description", words(72)),
    (
        20,
        lambda n: interactive("cta_url", action=link(display_text="x" * n)),
        f"{I}.action.parameters.display_text",
        words(20),
    ),
    (10, lambda n: interactive("product_list", action=products(1, sections=n)), f"{I}.action.sections", few(10)),
    (
        24,
        lambda n: interactive("product_list", action=products(1, title="x" * n)),
        f"{I}.action.sections[0].title",
        words(24),
    ),
    (
        30,
        lambda n: interactive("product_list", action=products(n)),
        f"{I}.action",
        "at most 30 products in all sections together: leave some out",
    ),
    (
        160,
        lambda n: cards(card(0, body={"text": "x" * n}), card(1)),
        f"{I}.action.cards[0].body.text",
        words(160),
    ),
    (
        2,
        lambda n: cards(card(0, body={"text": "x" + "\n" * n + "x"}), card(1)),
        f"{I}.action.cards[0].body.text",
        "must have at most 2 line breaks; leave some out",
    ),
    (
        20,
        lambda n: cards(card(0, action=link(display_text="x" * n)), card(1)),
        f"{I}.action.cards[0].action.parameters.display_text",
        words(20),
    ),
    (9, lambda n: cards(card(0), card(n)), f"{I}.action.cards[1].card_index", "must be at most 9"),
    (90, lambda n: place(latitude=n), "message.location", ON_EARTH),
    (180, lambda n: place(longitude=-n), "message.location", ON_EARTH),
]


def place(**more: Any) -> dict[str, Any]:
    return {"type": "location", "location": {"latitude": 0, "longitude": 0} | more}


@pytest.mark.parametrize(("limit", "make", "field", "reason"), LIMITS, ids=range(len(LIMITS)))
def test_a_limit_holds_exactly_and_is_refused_by_name(
    limit: int, make: Callable[[int], dict[str, Any]], field: str, reason: str
) -> None:
    assert parse_message(make(limit)).content() == make(limit)
    with pytest.raises(InvalidMessage) as refusal:
        parse_message(make(limit + 1))
    assert (refusal.value.code, refusal.value.field, refusal.value.reason) == ("invalid_message", field, reason)


@pytest.mark.parametrize("number", [1, 11])
def test_a_carousel_has_two_to_ten_cards(number: int) -> None:
    parse_message(cards(*[card(one) for one in range(10)]))
    with pytest.raises(InvalidMessage) as refusal:
        parse_message(cards(*[card(one % 10) for one in range(number)]))
    assert refusal.value.field == f"{I}.action.cards"


# ── What is no limit ──────────────────────────────────────────────────────────────────────────────

PRODUCT = {"card_index": 0, "type": "product", "action": {"product_retailer_id": "a", "catalog_id": "1"}}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (media("image", link=LINK), "message.image", "needs either id or link"),
    ({"type": "video", "video": {}}, "message.video", "needs either id or link"),
    (media("audio", caption="a"), "message.audio.caption", "does not exist here"),
    (media("sticker", caption="a"), "message.sticker.caption", "does not exist here"),
    (media("image", voice=True), "message.image.voice", "does not exist here"),
    (media("image", filename="a.png"), "message.image.filename", "does not exist here"),
    (
        {"type": "contacts", "contacts": [{"name": {"formatted_name": "Ana"}}]},
        "message.contacts[0].name",
        "needs one more part beside formatted_name: first_name, last_name, …",
    ),
    ({"type": "contacts", "contacts": []}, "message.contacts", "needs at least 1 of them"),
    (
        {"type": "contacts", "contacts": [person(birthday="23.1.1999")]},
        "message.contacts[0].birthday",
        "must match ^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
    ),
    (
        interactive("button", action={"buttons": [reply(0), reply(1, title="t-0")]}),
        f"{I}.action",
        "every button needs a title and an id of its own",
    ),
    (
        interactive("button", action={"buttons": [reply(0), reply(1, id="id-0")]}),
        f"{I}.action",
        "every button needs a title and an id of its own",
    ),
    (
        interactive("list", header={"type": "image", "image": {"id": "1"}}),
        f"{I}.header.type",
        "must be 'text'",
    ),
    (
        interactive("list", action={"button": "a", "sections": [{"title": "a", "rows": [row(0)]}, {"rows": [row(1)]}]}),
        f"{I}.action",
        "every section needs a title where there are several",
    ),
    (interactive("flow", action=flow(flow_name="a")), f"{I}.action.parameters", "needs either flow_id or flow_name"),
    (
        interactive("flow", action=flow(flow_message_version="2")),
        f"{I}.action.parameters.flow_message_version",
        "must be '3'",
    ),
    (interactive("location_request_message", footer={"text": "a"}), f"{I}.footer", "does not exist here"),
    (interactive("product", header={"type": "text", "text": "a"}), f"{I}.header", "does not exist here"),
    (interactive("carousel", footer={"text": "a"}), f"{I}.footer", "does not exist here"),
    (cards(card(0), card(0)), f"{I}.action", "card_index 0 is given twice"),
    (cards(PRODUCT, card(1)), f"{I}.action", "every card must have the same kind of button"),
    (
        cards(PRODUCT, {"card_index": 1, "type": "product", "action": {"product_retailer_id": "a", "catalog_id": "2"}}),
        f"{I}.action",
        "every product must be of the same catalog",
    ),
    ({"type": "interactive", "interactive": {"body": {"text": "a"}}}, I, "needs its type (a button also its sub_type)"),
]


@pytest.mark.parametrize(("message", "field", "reason"), REFUSED)
def test_what_meta_would_refuse_is_refused_by_name(message: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        parse_message(message)
    assert (refusal.value.code, refusal.value.field, refusal.value.reason) == ("invalid_message", field, reason)


CALLING = "it belongs to the Calling API, which is not implemented"
PAYMENTS = "it belongs to payments, which are not implemented"
GROUPS = "it belongs to groups, which are not implemented"
DIRECT_SEND = "it belongs to Direct Send, which is not implemented: send a template"


@pytest.mark.parametrize(
    ("message", "field", "reason"),
    [
        ({"type": "pin", "pin": {"type": "pin"}}, "message.type", GROUPS),
        (media("image") | {"recipient_type": "group"}, "message.recipient_type", GROUPS),
        (media("image") | {"category": "utility"}, "message.category", DIRECT_SEND),
        (media("image") | {"ttl_seconds": 60}, "message.ttl_seconds", DIRECT_SEND),
        (media("image") | {"direct_send_config": {}}, "message.direct_send_config", DIRECT_SEND),
        *(
            ({"type": "interactive", "interactive": {"type": kind, "action": {}}}, f"{I}.type", reason)
            for kind, reason in (
                ("voice_call", CALLING),
                ("call_permission_request", CALLING),
                ("order_details", PAYMENTS),
                ("order_status", PAYMENTS),
                ("address_message", "Meta has it in India only, and it is not implemented"),
            )
        ),
    ],
)
def test_what_is_not_here_says_why(message: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        parse_message(message)
    assert (refusal.value.code, refusal.value.field, refusal.value.reason) == (
        "message_type_not_implemented",
        field,
        reason,
    )
