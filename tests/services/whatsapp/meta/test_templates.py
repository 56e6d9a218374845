"""Contracts of templates: derived from Meta's listings, one payload file a kind, and kept by check and fill."""

import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.whatsapp.meta.messages import parse_message
from services.whatsapp.meta.templates import Contract, InvalidParameters, Parameter, check, contract_of, fill

PAYLOADS = sorted((Path(__file__).parents[3] / "payloads" / "templates").glob("*.json"))
LINK = "https://shop.example/a"
PRODUCTS = {
    "thumbnail_product_retailer_id": "p1",
    "sections": [{"title": "Todo", "product_items": [{"product_retailer_id": "p1"}]}],
}
EXAMPLES: dict[str, Any] = {
    "text": "Ana",
    "payload": "yes",
    "coupon_code": "SPRING",
    "code": "123456",
    "image": LINK,
    "video": {"id": "7003"},
    "document": {"link": LINK, "filename": "invoice.pdf"},
    "location": {"latitude": "19.43", "longitude": "-99.13", "name": "Centro", "address": "Calle 1"},
    "product": {"product_retailer_id": "p1", "catalog_id": "7004"},
    "voice_call": {"ttl_minutes": 60, "payload": "order-1"},
    "expiration_ms": 1_795_600_000_000,
}
ACTIONS: dict[str, Any] = {
    "flow": {"flow_token": "unused"},
    "catalog": {"thumbnail_product_retailer_id": "p1"},
    "products": PRODUCTS,
}


def of(name: str) -> Contract:
    listed = json.loads((PAYLOADS[0].parent / f"{name}.json").read_text(encoding="utf-8"))["template"]
    return contract_of(listed["components"], listed["category"])


def parameters_of(contract: Contract) -> list[Parameter]:
    assert "parameters" in contract
    return contract["parameters"]


def example(parameter: Parameter) -> Any:
    if parameter["type"] == "action":
        return ACTIONS[parameter["key"].rpartition(".")[2]]
    return parameter.get("example") or EXAMPLES[parameter["type"]]


def examples(contract: Contract, *, optional: bool = True) -> dict[str, Any]:
    parameters = parameters_of(contract)
    return {each["key"]: example(each) for each in parameters if optional or each["required"]}


def parsed(components: list[dict[str, Any]]) -> dict[str, Any]:
    """The components as `send` would take them."""
    content = {"name": "any", "language": {"code": "es_MX"}} | ({"components": components} if components else {})
    return parse_message({"type": "template", "template": content}).content()


# ── Deriving ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", PAYLOADS, ids=lambda path: path.stem)
def test_contract(path: Path) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    assert contract_of(case["template"]["components"], case["template"]["category"]) == case["contract"]


@pytest.mark.parametrize(
    "components",
    [
        *(None, "BODY", {}, [None], ["BODY"], [{"type": 5}], [{}]),
        [{"type": "BUTTONS", "buttons": 5}],
        [{"type": "BUTTONS", "buttons": [None]}],
        [{"type": "CAROUSEL", "cards": [None]}],
        [{"type": "CAROUSEL", "cards": ["card"]}],
        [{"type": "LIMITED_TIME_OFFER", "limited_time_offer": ["offer"]}],
        [{"type": "HEADER", "format": {}}],
    ],
)
def test_what_cannot_be_understood_is_unsupported(components: object) -> None:
    assert set(contract_of(components, "UTILITY")) == {"unsupported"}


def test_what_is_unsupported_is_neither_checked_nor_filled() -> None:
    contract = of("component_unknown")
    problem = check(contract, None)
    assert problem is not None
    assert "HOLOGRAM" in problem.reason
    with pytest.raises(InvalidParameters, match="HOLOGRAM"):
        fill(contract, {})


# ── Filling and checking ──────────────────────────────────────────────────────────────────────────

SUPPORTED = [
    path.stem for path in PAYLOADS if "unsupported" not in json.loads(path.read_text(encoding="utf-8"))["contract"]
]


@pytest.mark.parametrize("optional", [True, False], ids=["with optional", "without optional"])
@pytest.mark.parametrize("name", SUPPORTED)
def test_a_filled_example_fits_its_contract_and_metas_shape(name: str, optional: bool) -> None:
    contract = of(name)
    components = fill(contract, examples(contract, optional=optional))
    assert check(contract, components) is None
    assert parsed(components)["template"].get("components", []) == components


@pytest.mark.parametrize("name", SUPPORTED)
def test_each_missing_or_strange_parameter_is_named_by_its_key(name: str) -> None:
    contract = of(name)
    values = examples(contract)
    for parameter in parameters_of(contract):
        key = parameter["key"]
        rest = {each: value for each, value in values.items() if each != key}
        if not parameter["required"]:
            assert check(contract, fill(contract, rest)) is None
            continue
        for incomplete in (rest, rest | {key: None}, rest | {key: ""}):
            with pytest.raises(InvalidParameters) as missing:
                fill(contract, incomplete)
            assert missing.value.field == key
    with pytest.raises(InvalidParameters) as strange:
        fill(contract, values | {"body.99": "x"})
    assert strange.value.field == "body.99"


def test_a_filled_message_is_the_one_meta_documents() -> None:
    assert fill(of("carousel"), examples(of("carousel"), optional=False)) == [
        {"type": "body", "parameters": [{"type": "text", "text": "Ana"}]},
        {
            "type": "carousel",
            "cards": [
                {
                    "card_index": 0,
                    "components": [
                        {"type": "header", "parameters": [{"type": "image", "image": {"link": LINK}}]},
                        {"type": "body", "parameters": [{"type": "text", "text": "10 %"}]},
                        {
                            "type": "button",
                            "sub_type": "url",
                            "index": "0",
                            "parameters": [{"type": "text", "text": "Ana"}],
                        },
                    ],
                },
                {
                    "card_index": 1,
                    "components": [{"type": "header", "parameters": [{"type": "video", "video": {"id": "7003"}}]}],
                },
            ],
        },
    ]


def test_positional_parameters_go_in_the_order_of_their_numbers() -> None:
    """Meta reads the list as {{1}}, {{2}}…, wherever those stand in the text."""
    filled = fill(of("body_out_of_order"), {"body.2": "second", "body.1": "first"})
    assert [parameter["text"] for parameter in filled[0]["parameters"]] == ["first", "second"]


def test_a_one_time_password_stands_in_the_body_and_in_the_button() -> None:
    contract = of("authentication")
    body, button = fill(contract, {"code": "123456"})
    assert body["parameters"] == button["parameters"] == [{"type": "text", "text": "123456"}]
    other = button | {"parameters": [{"type": "text", "text": "654321"}]}
    for wrong in ([body], [button], [body, other], []):
        problem = check(contract, wrong)
        assert problem is not None
        assert problem.field == "message.template.code"


TEXT = {"type": "text", "text": "Ana"}
BODY = {"type": "body", "parameters": [TEXT, TEXT]}
IMAGE = {"type": "header", "parameters": [{"type": "image", "image": {"link": LINK}}]}
PAYLOAD = {
    "type": "button",
    "sub_type": "quick_reply",
    "index": "0",
    "parameters": [{"type": "payload", "payload": "a"}],
}
URL = {"type": "button", "sub_type": "url", "index": "0", "parameters": [TEXT]}


@pytest.mark.parametrize(
    ("name", "components", "key"),
    [
        ("body_positional", [], "body.1"),
        ("body_positional", [{"type": "body", "parameters": [TEXT]}], "body.2"),
        ("body_positional", [{"type": "body", "parameters": [TEXT] * 3}], "body.3"),
        ("body_positional", [BODY, IMAGE], "header.image"),
        ("body_positional", [BODY, URL], "buttons.0.url"),
        ("body_named", [BODY], "body.first_name"),
        ("header_image", [], "header.image"),
        ("header_video", [IMAGE], "header.video"),
        ("header_text", [{"type": "header", "parameters": [TEXT | {"text": "a" * 61}]}], "header.1"),
        ("button_url", [PAYLOAD], "buttons.0.url"),
        ("button_url_static", [URL], "buttons.0.url"),
        (
            "limited_time_offer_without_end",
            [
                {
                    "type": "limited_time_offer",
                    "parameters": [{"type": "limited_time_offer", "limited_time_offer": {"expiration_time_ms": 1}}],
                }
            ],
            "limited_time_offer",
        ),
        ("carousel", [{"type": "body", "parameters": [TEXT]}], "cards.0.header.image"),
    ],
)
def test_what_does_not_fit_is_named_by_its_key(name: str, components: list[dict[str, Any]], key: str) -> None:
    parsed(components)  # Meta's shape is right: it is the template it does not fit.
    problem = check(of(name), components)
    assert problem is not None
    assert problem.field == f"message.template.{key}"


def test_legacy_currency_and_date_count_as_texts() -> None:
    currency = {"type": "currency", "currency": {"fallback_value": "$1", "code": "MXN", "amount_1000": 1000}}
    date = {"type": "date_time", "date_time": {"fallback_value": "1 de mayo"}}
    assert check(of("body_positional"), [{"type": "body", "parameters": [currency, date]}]) is None


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("body_positional", "body.1", 5),
        ("body_positional", "body.1", "   "),
        ("body_positional", "body.1", "two\nlines"),
        ("body_positional", "body.1", "a\ttab"),
        ("body_positional", "body.1", "many     spaces"),
        ("body_positional", "body.1", "a" * 1025),
        ("header_image", "header.image", "ftp://shop.example/a"),
        ("header_image", "header.image", {"id": "7003", "link": LINK}),
        ("header_image", "header.image", {}),
        ("header_location", "header.location", "Centro"),
        ("button_mpm", "buttons.0.products", "all"),
        ("button_copy_code", "buttons.0.coupon_code", "a" * 16),
        ("limited_time_offer", "limited_time_offer", "tomorrow"),
        ("authentication", "code", "1" * 16),
    ],
)
def test_a_malformed_value_is_named_by_its_key(name: str, key: str, value: object) -> None:
    contract = of(name)
    with pytest.raises(InvalidParameters) as malformed:
        fill(contract, examples(contract) | {key: value})
    assert malformed.value.field == key
    assert str(value) not in malformed.value.reason


# ── Any template ──────────────────────────────────────────────────────────────────────────────────

WORDS = st.text(string.ascii_letters + "áñ ¿", min_size=1, max_size=20).filter(str.strip)
NUMBERS = st.integers(0, 5).flatmap(lambda n: st.permutations([str(i) for i in range(1, n + 1)]))
NAMES = st.lists(st.text(string.ascii_lowercase + "_", min_size=1, max_size=8), max_size=4, unique=True)


def text_of(names: list[str]) -> str:
    return "Hola " + " ".join(f"{{{{{name}}}}}" for name in names)


BODIES = st.one_of(NUMBERS, NAMES).map(lambda names: {"type": "BODY", "text": text_of(names)})
HEADERS = st.sampled_from(["IMAGE", "VIDEO", "DOCUMENT"]).map(lambda form: {"type": "HEADER", "format": form})
CARD_BUTTONS = st.sampled_from(
    [{"type": "QUICK_REPLY"}, {"type": "URL", "url": "https://shop.example/{{1}}"}, {"type": "URL", "url": LINK}]
)
BUTTONS = st.one_of(
    CARD_BUTTONS,
    st.sampled_from([{"type": kind} for kind in ("COPY_CODE", "FLOW", "CATALOG", "MPM", "PHONE_NUMBER", "VOICE_CALL")]),
)


def buttons(kinds: st.SearchStrategy[dict[str, str]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.lists(kinds, max_size=4).map(lambda chosen: {"type": "BUTTONS", "buttons": chosen})


CARDS = st.tuples(HEADERS, BODIES, buttons(CARD_BUTTONS)).map(lambda parts: {"components": list(parts)})
CAROUSELS = st.lists(CARDS, min_size=1, max_size=4).map(lambda cards: {"type": "CAROUSEL", "cards": cards})
OFFERS = st.booleans().map(lambda ends: {"type": "LIMITED_TIME_OFFER", "limited_time_offer": {"has_expiration": ends}})
TEMPLATES = st.tuples(
    st.one_of(st.none(), HEADERS, st.just({"type": "HEADER", "format": "LOCATION"})),
    BODIES,
    st.one_of(st.none(), OFFERS),
    st.one_of(st.none(), buttons(BUTTONS), CAROUSELS),
).map(lambda parts: [part for part in parts if part])


@given(components=TEMPLATES, data=st.data())
def test_whatever_is_filled_fits(components: list[dict[str, Any]], data: st.DataObject) -> None:
    contract = contract_of(components, "MARKETING")
    values = {}
    for parameter in parameters_of(contract):
        if parameter["required"] or data.draw(st.booleans()):
            free = parameter["type"] in ("text", "payload")
            values[parameter["key"]] = data.draw(WORDS) if free else example(parameter)
    filled = fill(contract, values)
    assert check(contract, filled) is None
    assert parsed(filled)["template"].get("components", []) == filled


@given(components=TEMPLATES, data=st.data())
def test_one_parameter_less_or_more_never_fits(components: list[dict[str, Any]], data: st.DataObject) -> None:
    contract = contract_of(components, "MARKETING")
    required = [parameter["key"] for parameter in parameters_of(contract) if parameter["required"]]
    values = examples(contract)
    if required:
        left_out = data.draw(st.sampled_from(required))
        with pytest.raises(InvalidParameters) as missing:
            fill(contract, {key: value for key, value in values.items() if key != left_out})
        assert missing.value.field == left_out
    with pytest.raises(InvalidParameters) as strange:
        fill(contract, values | {"header.strange": "x"})
    assert strange.value.field == "header.strange"


@pytest.mark.parametrize("value", ["soon", None, float("inf"), float("nan"), [1]])
def test_a_time_that_is_none_is_refused_by_its_key(value: object) -> None:
    offer = {"type": "LIMITED_TIME_OFFER", "limited_time_offer": {"text": "Oferta", "has_expiration": True}}
    contract = contract_of([{"type": "BODY", "text": "Hola"}, offer], "MARKETING")
    with pytest.raises(InvalidParameters) as refusal:
        fill(contract, {"limited_time_offer": value})
    assert refusal.value.field == "limited_time_offer"
