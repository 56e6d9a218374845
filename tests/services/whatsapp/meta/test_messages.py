"""Outbound messages: everything Meta takes passes unchanged, everything else is refused by name and reason."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.whatsapp.meta.messages import InvalidMessage, parse_message


def template(*components: Any, **more: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"name": "order_update", "language": {"code": "es_MX"}, **more}
    if components:
        body["components"] = list(components)
    return {"type": "template", "template": body}


def header(**parameter: Any) -> dict[str, Any]:
    return {"type": "header", "parameters": [parameter]}


def body(*parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "body", "parameters": list(parameters)}


def button(sub_type: str, *parameters: dict[str, Any], index: Any = "0") -> dict[str, Any]:
    return {"type": "button", "sub_type": sub_type, "index": index, "parameters": list(parameters)}


def words(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


SECTION = {"title": "Popular", "product_items": [{"product_retailer_id": "sku-1"}]}
CARD = {
    "card_index": 0,
    "components": [
        header(type="image", image={"id": "123"}),
        body(words("Ana")),
        button("quick_reply", {"type": "payload", "payload": "MORE"}),
        button("url", words("sale"), index="1"),
    ],
}
OFFER = {
    "type": "limited_time_offer",
    "parameters": [{"type": "limited_time_offer", "limited_time_offer": {"expiration_time_ms": 1795500000000}}],
}
TAP = {
    "type": "tap_target_configuration",
    "parameters": [
        {
            "type": "tap_target_configuration",
            "tap_target_configuration": [{"url": "https://example.com", "title": "Offer"}],
        }
    ],
}
PLACE = {"latitude": "19.4326", "longitude": "-99.1332", "name": "Zócalo", "address": "Centro"}

ACCEPTED: dict[str, dict[str, Any]] = {
    "text": {"type": "text", "text": {"body": "Hola"}},
    "text with preview": {"type": "text", "text": {"body": "https://example.com", "preview_url": True}},
    "longest text": {"type": "text", "text": {"body": "é" * 4096}},
    "text with line breaks": {"type": "text", "text": {"body": "a\n\tb      c"}},
    "reply": {"type": "text", "text": {"body": "Sí"}, "context": {"message_id": "wamid.IN1"}},
    "reaction": {"type": "reaction", "reaction": {"message_id": "wamid.IN1", "emoji": "👍🏽"}},
    "reaction removed": {"type": "reaction", "reaction": {"message_id": "wamid.IN1", "emoji": ""}},
    "template": template(),
    "template with empty components": template(components=[]),
    "template as reply": template() | {"context": {"message_id": "wamid.IN1"}},
    "template with policy": template(language={"code": "es", "policy": "deterministic"}),
    "template in the language of webhooks": template(language={"code": "es-MX"}),
    "header text": template(header(**words("Ana"))),
    "header named text": template(header(**words("Ana", parameter_name="first_name"))),
    "header image id": template(header(type="image", image={"id": "123"})),
    "header image link": template(header(type="image", image={"link": "https://example.com/a.png"})),
    "header video": template(header(type="video", video={"link": "http://example.com/a.mp4"})),
    "header document": template(header(type="document", document={"id": "123", "filename": "factura.pdf"})),
    "header location": template(header(type="location", location=PLACE)),
    "header location numbers": template(header(type="location", location={"latitude": 19.4, "longitude": -99})),
    "header product": template(header(type="product", product={"product_retailer_id": "sku-1", "catalog_id": "cat-1"})),
    "body positional": template(body(words("Ana"), words("A    B"))),
    "body named": template(body(words("Ana", parameter_name="name"), words("12", parameter_name="order_1"))),
    "body currency": template(
        body(
            {"type": "currency", "currency": {"fallback_value": "$10", "code": "MXN", "amount_1000": 10000}},
            {"type": "date_time", "date_time": {"fallback_value": "24 de noviembre"}},
        )
    ),
    "button url": template(button("url", words("A1%2FB2"))),
    "button quick reply": template(button("quick_reply", {"type": "payload", "payload": "YES"}, index="9")),
    "button copy code": template(button("copy_code", {"type": "coupon_code", "coupon_code": "SAVE25"})),
    "date and time with its parts": template(
        body(
            {
                "type": "date_time",
                "date_time": {
                    "fallback_value": "February 25, 1977",
                    "calendar": "GREGORIAN",
                    "day_of_week": 5,
                    "day_of_month": 25,
                    "year": 1977,
                    "month": 2,
                    "hour": 15,
                    "minute": 33,
                },
            },
            {"type": "date_time", "date_time": {"fallback_value": "February 25, 1977", "timestamp": 1485470276}},
            {"type": "date_time", "date_time": {"fallback_value": "25 de febrero", "day_of_week": "FRIDAY"}},
        )
    ),
    "button copy code as Meta writes it": template(
        button("COPY_CODE", {"type": "coupon_code", "coupon_code": "x" * 15})
    ),
    "button voice call": template(
        {
            "type": "button",
            "sub_type": "voice_call",
            "parameters": [{"type": "ttl_minutes", "ttl_minutes": 60}, {"type": "payload", "payload": "order-1"}],
        }
    ),
    "button voice call in capitals": template(
        {"type": "button", "sub_type": "VOICE_CALL", "index": "0", "parameters": [{"type": "payload", "payload": "a"}]}
    ),
    "button voice call without parameters": template({"type": "button", "sub_type": "voice_call"}),
    "button flow": template(
        button(
            "flow",
            {"type": "action", "action": {"flow_token": "unused", "flow_action_data": {"a": None, "b": [1]}}},
        )
    ),
    "button flow without parameters": template({"type": "button", "sub_type": "flow", "index": "0"}),
    "button catalog": template(
        button("CATALOG", {"type": "action", "action": {"thumbnail_product_retailer_id": "sku-1"}})
    ),
    "button products": template(
        button(
            "mpm",
            {"type": "action", "action": {"thumbnail_product_retailer_id": "sku-1", "sections": [SECTION]}},
        )
    ),
    "limited time offer": template(OFFER),
    "carousel": template(
        {"type": "carousel", "cards": [CARD, CARD | {"card_index": 1}]},
        body(words("Ana")),
    ),
    "tap target": template(TAP),
    "authentication": template(body(words("123456")), button("url", words("123456"))),
    "everything": template(
        header(type="image", image={"id": "1"}), body(words("a")), button("url", words("b"), index="1"), OFFER
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_meta_takes_passes_unchanged(name: str) -> None:
    given_message = copy.deepcopy(ACCEPTED[name])
    assert parse_message(given_message).content() == ACCEPTED[name]
    assert given_message == ACCEPTED[name]


def test_the_template_of_a_message() -> None:
    assert parse_message(template()).template_key == ("order_update", "es_MX")
    assert parse_message(ACCEPTED["text"]).template_key is None


def test_a_button_index_becomes_text() -> None:
    content = parse_message(template(button("url", words("x"), index=3))).content()
    assert content["template"]["components"][0]["index"] == "3"


def test_null_is_as_good_as_absent() -> None:
    message = {"type": "text", "text": {"body": "Hola", "preview_url": None}, "context": None}
    assert parse_message(message).content() == ACCEPTED["text"]


COMPONENT = "message.template.components[0]"
PARAMETER = f"{COMPONENT}.parameters[0]"
REFUSED: list[tuple[Any, str, str]] = [
    (None, "message", "must be an object"),
    ([], "message", "must be an object"),
    ({}, "message.type", "is required"),
    ({"type": 1}, "message.type", "must be text"),
    ({"type": "text"}, "message.text", "is required"),
    ({"type": "text", "text": "Hola"}, "message.text", "must be an object"),
    ({"type": "text", "text": {}}, "message.text.body", "is required"),
    ({"type": "text", "text": {"body": 7}}, "message.text.body", "must be text"),
    ({"type": "text", "text": {"body": ""}}, "message.text.body", "must not be empty"),
    ({"type": "text", "text": {"body": " \n "}}, "message.text.body", "must not be empty"),
    (
        {"type": "text", "text": {"body": "x" * 4097}},
        "message.text.body",
        "must have at most 4096 characters; shorten it",
    ),
    (
        {"type": "text", "text": {"body": "x", "preview_url": "yes"}},
        "message.text.preview_url",
        "must be true or false",
    ),
    ({"type": "text", "text": {"body": "x", "bodi": "y"}}, "message.text.bodi", "does not exist here"),
    ({"type": "text", "text": {"body": "x"}, "to": "+52"}, "message.to", "does not exist here"),
    ({"type": "text", "text": {"body": "x"}, "template": {}}, "message.template", "does not exist here"),
    ({"type": "text", "text": {"body": "x"}, "context": {}}, "message.context.message_id", "is required"),
    ({"type": "text", "text": {"body": "a\0b"}}, "message.text.body", "contains a character that cannot be stored"),
    (
        {"type": "text", "text": {"body": "a\ud800b"}},
        "message.text.body",
        "contains a character that cannot be stored",
    ),
    (
        {"type": "reaction", "reaction": {"message_id": "", "emoji": "👍"}},
        "message.reaction.message_id",
        "must not be empty",
    ),
    ({"type": "reaction", "reaction": {"message_id": "wamid.1"}}, "message.reaction.emoji", "is required"),
    (
        ACCEPTED["reaction"] | {"context": {"message_id": "wamid.1"}},
        "message.context",
        "does not exist here",
    ),
    (template(name="Order Update"), "message.template.name", "must match ^[a-z0-9_]{1,512}$"),
    (
        template(language={"code": "Spanish"}),
        "message.template.language.code",
        "must match ^[a-z]{2,3}([_-][A-Za-z]{2,4})?$",
    ),
    (template(namespace="x"), "message.template.namespace", "does not exist here"),
    (template("x"), COMPONENT, "needs its type (a button also its sub_type)"),
    (template({"type": "button"}), COMPONENT, "needs its type (a button also its sub_type)"),
    (
        template({"type": "footer"}),
        COMPONENT,
        "its type must be one of header, body, url, quick_reply, copy_code, COPY_CODE, voice_call, VOICE_CALL, flow, "
        "CATALOG, catalog, mpm, MPM, limited_time_offer, tap_target_configuration, carousel",
    ),
    (template({"type": "header"}), f"{COMPONENT}.parameters", "is required"),
    (template(body()), f"{COMPONENT}.parameters", "needs at least 1 of them"),
    (
        template({"type": "header", "parameters": [words("a"), words("b")]}),
        f"{COMPONENT}.parameters",
        "takes at most 1 of them; leave some out",
    ),
    (template(header(type="image", image={})), f"{PARAMETER}.image", "needs either id or link"),
    (
        template(header(type="image", image={"id": "1", "link": "https://example.com"})),
        f"{PARAMETER}.image",
        "needs either id or link",
    ),
    (
        template(header(type="image", image={"link": "file:///etc/passwd"})),
        f"{PARAMETER}.image.link",
        "must be a link that begins with https:// or http://",
    ),
    (
        template(header(type="image", image={"id": "1", "filename": "a.png"})),
        f"{PARAMETER}.image.filename",
        "does not exist here",
    ),
    (
        template(header(type="location", location=PLACE | {"latitude": "91"})),
        f"{PARAMETER}.location",
        "latitude must be within -90..90 and longitude within -180..180",
    ),
    (
        template(header(type="location", location=PLACE | {"latitude": "north"})),
        f"{PARAMETER}.location.latitude",
        "must be decimal degrees",
    ),
    (
        template(body({"type": "image", "image": {"id": "1"}})),
        PARAMETER,
        "its type must be one of text, currency, date_time",
    ),
    (template(body({"type": "text"})), f"{PARAMETER}.text", "is required"),
    (template(body(words(" "))), f"{PARAMETER}.text", "must not be empty"),
    *(
        (
            template(body(words(text))),
            f"{PARAMETER}.text",
            "must not contain line breaks, tabs or more than 4 spaces in a row",
        )
        for text in ("a\nb", "a\rb", "a\tb", "a     b")
    ),
    (
        template(body(words("a", parameter_name="x"), words("b"))),
        COMPONENT,
        "either every parameter has a parameter_name or none has",
    ),
    (
        template(body(words("a", parameter_name="x"), words("b", parameter_name="x"))),
        COMPONENT,
        "parameter_name x is given twice",
    ),
    (
        template(body({"type": "currency", "currency": {"fallback_value": "$", "code": "MXN", "amount_1000": "10"}})),
        f"{PARAMETER}.currency.amount_1000",
        "must be a whole number",
    ),
    (template(button("url", words("x"), index="first")), f"{COMPONENT}.index", "must match ^[0-9]{1,2}$"),
    (template(button("url", words("x"), index=True)), f"{COMPONENT}.index", "must be text"),
    (
        template(button("copy_code", {"type": "coupon_code", "coupon_code": "x" * 16})),
        f"{PARAMETER}.coupon_code",
        "must have at most 15 characters; shorten it",
    ),
    (
        template(button("COPY_CODE", {"type": "coupon_code", "coupon_code": "x" * 16})),
        f"{PARAMETER}.coupon_code",
        "must have at most 15 characters; shorten it",
    ),
    (
        template(button("voice_call", {"type": "payload", "payload": "a"}, {"type": "payload", "payload": "b"})),
        COMPONENT,
        "parameter type payload is given twice",
    ),
    (
        template(body({"type": "date_time", "date_time": {"fallback_value": "x", "yeer": 1977}})),
        f"{PARAMETER}.date_time.yeer",
        "does not exist here",
    ),
    (
        template(button("quick_reply", {"type": "payload", "payload": "x" * 257})),
        f"{PARAMETER}.payload",
        "must have at most 256 characters; shorten it",
    ),
    (template(button("quick_reply", words("x"))), f"{PARAMETER}.type", "must be 'payload'"),
    (
        template(
            button(
                "mpm",
                {
                    "type": "action",
                    "action": {
                        "thumbnail_product_retailer_id": "sku-1",
                        "sections": [
                            {"title": "A", "product_items": [{"product_retailer_id": "x"}] * 16},
                            {"title": "B", "product_items": [{"product_retailer_id": "y"}] * 15},
                        ],
                    },
                },
            )
        ),
        f"{PARAMETER}.action",
        "at most 30 products in all sections together",
    ),
    (
        template({"type": "carousel", "cards": [CARD, CARD]}),
        COMPONENT,
        "card_index 0 is given twice",
    ),
    (
        template({"type": "carousel", "cards": [{"card_index": 10, "components": []}]}),
        f"{COMPONENT}.cards[0].card_index",
        "must be at most 9",
    ),
    (
        template({"type": "carousel", "cards": [{"card_index": 0, "components": [body(words("a\n"))]}]}),
        f"{COMPONENT}.cards[0].components[0].parameters[0].text",
        "must not contain line breaks, tabs or more than 4 spaces in a row",
    ),
    (
        template({"type": "carousel", "cards": []}),
        f"{COMPONENT}.cards",
        "needs at least 1 of them",
    ),
    (template(body(words("a")), body(words("b"))), "message.template", "component type body is given twice"),
    (
        template(button("url", words("a")), button("url", words("b"), index=0)),
        "message.template",
        "button index 0 is given twice",
    ),
    (
        template(button("flow", {"type": "action", "action": {"flow_action_data": {"a": float("nan")}}})),
        f"{PARAMETER}.action.flow_action_data.a",
        "is a number that cannot be stored",
    ),
]


@pytest.mark.parametrize(("message", "field", "reason"), REFUSED)
def test_what_meta_refuses_is_refused_by_name(message: Any, field: str, reason: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        parse_message(message)
    assert (refusal.value.code, refusal.value.field, refusal.value.reason) == ("invalid_message", field, reason)


@pytest.mark.parametrize("sub_type", ["order_details", "ORDER_DETAILS"])
def test_buttons_that_are_not_here_say_so(sub_type: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        parse_message(template(button(sub_type)))
    assert (refusal.value.code, refusal.value.field) == ("message_type_not_implemented", f"{COMPONENT}.sub_type")


@pytest.mark.parametrize("kind", ["txt", "", "TEXT", "system"])
def test_a_kind_meta_does_not_have(kind: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        parse_message({"type": kind})
    assert refusal.value.code == "message_type_unknown"


def test_bottomless_nesting_is_refused() -> None:
    deep: Any = "bottom"
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(InvalidMessage, match="is nested too deeply"):
        parse_message(template(button("flow", {"type": "action", "action": {"flow_action_data": {"a": deep}}})))


def test_a_refusal_never_repeats_the_message() -> None:
    with pytest.raises(InvalidMessage) as refusal:
        parse_message(template(body(words("my private\nwords"))))
    assert "private" not in str(refusal.value)


@given(
    st.text("aé \n\t", max_size=12),
    st.none() | st.text("ab_A", max_size=4),
)
def test_a_parameter_that_passes_is_one_meta_takes(text: str, name: str | None) -> None:
    message = template(body(words(text) if name is None else words(text, parameter_name=name)))
    try:
        content = parse_message(message).content()
    except InvalidMessage:
        return
    assert json.loads(json.dumps(content)) == message
    assert text.strip()
    assert not {"\n", "\t"} & set(text)
    assert "     " not in text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
STEPS = st.sampled_from(sorted(ACCEPTED))


@given(STEPS, st.randoms(use_true_random=False), JSON)
def test_a_message_with_any_part_replaced_passes_or_is_refused(name: str, random: Any, other: Any) -> None:
    message = copy.deepcopy(ACCEPTED[name])
    place: Any = message
    while True:
        step = random.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[step], dict | list) or not place[step] or random.random() < 0.3:
            break
        place = place[step]
    place[step] = other
    try:
        content = parse_message(message).content()
    except InvalidMessage as refusal:
        where = refusal.field
    else:
        where = "message"
        assert json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    assert where.startswith("message")
