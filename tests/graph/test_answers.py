"""What the stand-in answers is what Meta documents: accepted, or refused with which code."""

from typing import Any

import phonenumbers
import pytest

from tests.graph import Graph, World, random_phone
from tests.graph.conftest import Client

Json = dict[str, Any]
PHONE = "+525520304050"


def message(**members: Any) -> Json:
    return {"messaging_product": "whatsapp", "to": PHONE, "type": "text", "text": {"body": "hola"}} | members


def without(*names: str) -> Json:
    return {name: value for name, value in message().items() if name not in names}


def template(name: str, *components: Json, language: str = "es_MX", **members: Any) -> Json:
    content: Json = {"name": name, "language": {"code": language}}
    if components:
        content["components"] = list(components)
    return without("text") | {"type": "template", "template": content} | members


def texts(*values: str, kind: str = "body", **members: Any) -> Json:
    return {"type": kind, "parameters": [{"type": "text", "text": value} for value in values], **members}


IMAGE = {"type": "header", "parameters": [{"type": "image", "image": {"link": "https://shop.example/a.png"}}]}
NAMED = {
    "type": "body",
    "parameters": [
        {"type": "text", "parameter_name": "order_id", "text": "A1"},
        {"type": "text", "parameter_name": "first_name", "text": "Ana"},
    ],
}
BUTTON = {"sub_type": "url", "index": "0"}


def buttons(*titles: str) -> Json:
    replies = [{"type": "reply", "reply": {"id": f"b{at}", "title": title}} for at, title in enumerate(titles)]
    interactive = {"type": "button", "body": {"text": "¿Sí?"}, "action": {"buttons": replies}}
    return without("text") | {"type": "interactive", "interactive": interactive}


def media(kind: str, **members: str) -> Json:
    return without("text") | {"type": kind, kind: members}


ACCEPTED = {
    "text": message(),
    "text with all envelope members": message(
        recipient_type="individual", context={"message_id": "wamid.A"}, biz_opaque_callback_data="a" * 512
    ),
    "text of 4096": message(text={"body": "á" * 4096}),
    "image by link": media("image", link="https://shop.example/a.png", caption="c" * 1024),
    "audio by id": media("audio", id="12"),
    "location": without("text") | {"type": "location", "location": {"latitude": "19.4", "longitude": -99.1}},
    "reaction": without("text") | {"type": "reaction", "reaction": {"message_id": "wamid.A", "emoji": "👍"}},
    "three buttons": buttons("a", "b", "c"),
    "template without variables": template("plain"),
    "template in another language": template("order_update", texts("Ana", "A1"), language="es"),
    "named parameters in any order": template("order_named", NAMED),
    "template with image": template("spring_offer", IMAGE, texts("Ana")),
    "template with url button": template("tracking", texts("A1"), texts("A1", kind="button", **BUTTON)),
    "code": template("login_code", texts("123456"), texts("123456", kind="button", **BUTTON)),
}

REFUSED = {
    "not JSON": (b"{", 100),
    "an array": (b"[]", 100),
    "no messaging_product": (without("messaging_product"), 100),
    "nobody": (without("to"), 100),
    "no type": (without("type"), 100),
    "unknown type": (message(type="fax", fax={"a": 1}), 100),
    "misspelt key": (message(contxt={}), 100),
    "object of the type missing": (without("text"), 131008),
    "empty text": (message(text={"body": ""}), 131008),
    "text of 4097": (message(text={"body": "a" * 4097}), 100),
    "phone too short": (message(to="+52123"), 131009),
    "phone with letters": (message(to="+52call"), 131009),
    "misshapen user id": (without("to") | {"recipient": "nobody"}, 131009),
    "callback data of 513": (message(biz_opaque_callback_data="a" * 513), 100),
    "media with id and link": (media("image", id="1", link="https://a.example"), 100),
    "media with neither": (media("image", caption="a"), 100),
    "caption of audio": (media("audio", id="1", caption="a"), 100),
    "four buttons": (buttons("a", "b", "c", "d"), 131009),
    "button title of 21": (buttons("a" * 21), 100),
    "same button title twice": (buttons("a", "a"), 131009),
    "unknown template": (template("nothing_like_it"), 132001),
    "unknown language": (template("plain", language="es"), 132001),
    "pending template": (template("pending", texts("Ana")), 132001),
    "paused template": (template("paused", texts("Ana")), 132015),
    "disabled template": (template("disabled", texts("Ana")), 132016),
    "a parameter too few": (template("order_update", texts("Ana")), 132000),
    "a parameter too many": (template("plain", texts("Ana")), 132000),
    "names missing": (template("order_named", texts("Ana", "A1")), 132000),
    "header missing": (template("spring_offer", texts("Ana")), 132012),
    "button parameter missing": (template("tracking", texts("A1")), 131008),
    "new line in a parameter": (template("order_update", texts("A\nB", "A1")), 132018),
    "five spaces in a parameter": (template("order_update", texts("A     B", "A1")), 132018),
    "text grown too long": (template("order_update", texts("a" * 1024, "A1")), 132005),
    "code to a user id": (
        {key: value for key, value in template("login_code").items() if key != "to"} | {"recipient": "MX.1"},
        131062,
    ),
}


@pytest.mark.parametrize("body", ACCEPTED.values(), ids=ACCEPTED)
def test_accepts(graph: Graph, client: Client, body: Json) -> None:
    status, answer = client.post(body)

    assert status == 200
    assert answer["messaging_product"] == "whatsapp"
    assert answer["contacts"] == [{"input": PHONE, "wa_id": PHONE[1:]}]
    [sent] = answer["messages"]
    assert sent["id"].startswith("wamid.")
    assert sent["message_status"] == "accepted"
    assert graph.counts().accepted == 1


@pytest.mark.parametrize(("body", "code"), REFUSED.values(), ids=REFUSED)
def test_refuses(graph: Graph, client: Client, body: Json | bytes, code: int) -> None:
    status, answer = client.post(body)

    assert status in (400, 404)
    assert answer["error"]["code"] == code
    assert answer["error"]["message"].startswith(f"(#{code}) ")
    assert answer["error"]["type"] == "OAuthException"
    assert answer["error"]["fbtrace_id"]
    if code > 1000:
        assert answer["error"]["error_data"]["messaging_product"] == "whatsapp"
        assert answer["error"]["error_data"]["details"]
    counts = graph.counts()
    assert (counts.arrived, counts.accepted, counts.codes) == (1, 0, {code: 1})


def test_a_user_id_is_answered_as_user_id(client: Client) -> None:
    _, answer = client.post(without("to") | {"recipient": "MX.12345"})

    assert answer["contacts"] == [{"input": "MX.12345", "user_id": "MX.12345"}]


def test_to_wins_over_recipient(client: Client) -> None:
    _, answer = client.post(message(recipient="MX.12345"))

    assert answer["contacts"] == [{"input": PHONE, "wa_id": PHONE[1:]}]


@pytest.mark.parametrize(
    ("to", "wa_id"),
    [
        ("+52 (55) 2030-4050", "525520304050"),
        ("5520304050", "525520304050"),
        ("525520304050", "52525520304050"),
    ],
)
def test_without_plus_the_country_code_of_the_business_is_put_before(client: Client, to: str, wa_id: str) -> None:
    _, answer = client.post(message(to=to))

    assert answer["contacts"] == [{"input": to, "wa_id": wa_id}]


def test_a_business_cannot_write_to_itself(client: Client) -> None:
    _, answer = client.post(message(to="+" + client.number.display_phone_number))

    assert answer["error"]["code"] == 131021


def test_a_wrong_token_is_190(graph: Graph, client: Client) -> None:
    client.token = "wrong"
    status, answer = client.post(message())

    assert (status, answer["error"]["code"]) == (401, 190)
    assert graph.counts().codes == {190: 1}


def test_a_token_of_another_country_sees_no_such_number(graph: Graph, client: Client) -> None:
    status, answer = client.post(message(), to_number=graph.world.number("CO").phone_number_id)

    assert (status, answer["error"]["code"], answer["error"]["error_subcode"]) == (400, 100, 33)
    assert graph.counts().of(graph.world.number("CO"))["accepted"] == 0


def test_an_unknown_number_does_not_exist(client: Client) -> None:
    status, answer = client.post(message(), to_number="1234567")

    assert (status, answer["error"]["code"], answer["error"]["error_subcode"]) == (400, 100, 33)


def test_tokens_rotate(graph: Graph, client: Client) -> None:
    graph.tokens(client.number, ["newer"])
    old, _ = client.post(message())
    client.token = "newer"
    new, _ = client.post(message())

    assert (old, new) == (401, 200)


@pytest.mark.parametrize("more", [{}, {"typing_indicator": {"type": "text"}}])
def test_receipts_and_typing_are_no_messages(graph: Graph, client: Client, more: Json) -> None:
    receipt = {"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.A"}

    assert client.post(receipt | more) == (200, {"success": True})
    assert (graph.counts().arrived, graph.counts().receipts) == (0, 1)


def test_a_receipt_for_no_message_is_131009(client: Client) -> None:
    status, answer = client.post({"messaging_product": "whatsapp", "status": "read", "message_id": "A"})

    assert (status, answer["error"]["code"]) == (400, 131009)


def test_templates_are_paged_by_cursor(graph: Graph, client: Client) -> None:
    path = f"/v25.0/{client.number.waba_id}/message_templates?fields=name,language,status&limit=3"
    found: list[Json] = []
    while path:
        status, page = client.get(path.removeprefix(graph.url))
        assert status == 200
        assert len(page["data"]) <= 3
        found += page["data"]
        path = page["paging"].get("next", "")

    known = [
        {"name": one.name, "language": one.language, "status": one.status, "id": one.id}
        for one in graph.world.templates[client.number.waba_id]
    ]
    assert found == known


def test_the_page_after_the_last_is_empty(client: Client) -> None:
    path = f"/v25.0/{client.number.waba_id}/message_templates"
    _, page = client.get(path)
    _, beyond = client.get(f"{path}?after={page['paging']['cursors']['after']}")

    assert "next" not in page["paging"]
    assert beyond == {"data": []}


def test_a_filtered_page_may_be_empty_and_have_a_next_one(client: Client) -> None:
    _, page = client.get(f"/v25.0/{client.number.waba_id}/message_templates?limit=2&status=PAUSED")

    assert page["data"] == []
    assert page["paging"]["next"]


def test_templates_of_another_account_are_not_shown(graph: Graph, client: Client) -> None:
    status, answer = client.get(f"/v25.0/{graph.world.number('CO').waba_id}/message_templates")

    assert (status, answer["error"]["code"]) == (400, 100)


def test_a_phone_number_tells_the_fields_asked_for(client: Client) -> None:
    number_id = client.number.phone_number_id
    _, node = client.get(f"/v25.0/{number_id}?fields=throughput,status,quality_rating")
    status, _ = client.get(f"/v25.0/{number_id}?fields=shoe_size")

    assert node == {
        "throughput": {"level": "STANDARD"},
        "status": "CONNECTED",
        "quality_rating": "GREEN",
        "id": number_id,
    }
    assert status == 400


def test_other_paths_are_unknown(client: Client) -> None:
    status, answer = client.get("/messages")

    assert (status, answer["error"]["code"]) == (400, 2500)


def test_the_world_tells_its_environment() -> None:
    world = World.random(["MX"], ["main", "de-noche"])
    env = world.env("http://127.0.0.1:1")

    assert env["WHATSAPP_MX_MAIN_PHONE_NUMBER_ID"] == world.number("MX").phone_number_id
    assert env["WHATSAPP_MX_DE_NOCHE_WABA_ID"] == world.number("MX", "de-noche").waba_id
    assert env["WHATSAPP_MX_DE_NOCHE_TOKEN"] == world.number("MX", "de-noche").tokens[0]
    assert env["META_GRAPH_URL"] == "http://127.0.0.1:1"
    assert World.from_json(world.to_json()) == world


@pytest.mark.parametrize("country_id", ["MX", "CO", "AR", "BR", "CL", "PE", "ES", "US"])
def test_random_phones_are_valid_numbers_of_their_country(country_id: str) -> None:
    for _ in range(50):
        parsed = phonenumbers.parse(random_phone(country_id))
        assert phonenumbers.is_valid_number(parsed)
        assert phonenumbers.region_code_for_number(parsed) == country_id
