"""Webhooks: signed as Meta signs, shaped as documented, and delivered until the answer is 200."""

import hmac
from collections import Counter
from typing import Any

import pytest

from tests.graph import Graph
from tests.graph.conftest import Client, Receiver
from tests.graph.signature import signature

Json = dict[str, Any]
PHONE = "+525520304050"
WA_ID = "525520304050"


def text(tag: str, **members: Any) -> Json:
    message: Json = {"messaging_product": "whatsapp", "to": PHONE, "type": "text", "text": {"body": "hola"}}
    return message | {"biz_opaque_callback_data": tag} | members


def wamid(answer: tuple[int, Any]) -> str:
    return str(answer[1]["messages"][0]["id"])


@pytest.mark.parametrize(
    ("body", "digest"),
    [
        (
            b'{"object":"whatsapp_business_account","entry":[]}',
            "dec6a680679a968e7e0319355b23599cbfc54502c0784668e9618baa0c633756",
        ),
        (
            b'{"object": "whatsapp_business_account", "entry": []}',
            "56cbbaf4961c6cfdae48b7f116c047e5eb513d2c931baae63a2bc1afd26f803a",
        ),
        ('{"t":"ä"}'.encode(), "06fa411aed765ad4d417fb5f4e739b523235ab8ddf97c74c12dd6dc6cb93130d"),
        (rb'{"t":"\u00e4"}', "50daf52e6a4c373be5927cf97fa1da300f00e8b4050de7aedeffdce3e532ab1a"),
    ],
)
def test_signature_follows_the_test_vectors(body: bytes, digest: str) -> None:
    assert signature("test_app_secret", body) == f"sha256={digest}"


def test_an_accepted_message_reports_sent_delivered_read(graph: Graph, client: Client, receiver: Receiver) -> None:
    # far enough apart that eight concurrent deliveries keep their order
    graph.statuses(sent_ms=1, delivered_ms=150, read_ms=300)
    sent_id = wamid(client.post(text("m1")))
    graph.wait_until(lambda counts: counts.webhooks.updates_delivered == 3)

    assert [one["status"] for one in receiver.statuses()] == ["sent", "delivered", "read"]
    person = graph.user_id(PHONE)
    for value, status in zip(receiver.values(), receiver.statuses(), strict=True):
        assert value["messaging_product"] == "whatsapp"
        assert value["metadata"] == {
            "display_phone_number": client.number.display_phone_number,
            "phone_number_id": client.number.phone_number_id,
        }
        assert value["contacts"] == [{"wa_id": WA_ID, "user_id": person}]
        assert status["id"] == sent_id
        assert status["biz_opaque_callback_data"] == "m1"
        assert (status["recipient_id"], status["recipient_user_id"]) == (WA_ID, person)
        assert status["timestamp"].isdecimal()
    free = {"billable": False, "pricing_model": "PMP", "type": "free_customer_service", "category": "service"}
    assert [one.get("pricing") for one in receiver.statuses()] == [free, free, None]


def test_every_webhook_is_signed_over_its_bytes(graph: Graph, client: Client, receiver: Receiver) -> None:
    client.post(text("m1"))
    graph.customer_writes(client.number, PHONE, "¿Dónde está?", name="Íñigo")
    graph.wait_until(lambda counts: counts.webhooks.updates_delivered == 4)

    assert len(receiver.posts) == 4
    for body, signed in receiver.posts:
        right = hmac.new(graph.world.app_secret.encode(), body, "sha256").hexdigest()
        assert signed == f"sha256={right}"
        assert body.isascii()


def test_a_failed_status_has_errors_and_no_contacts(graph: Graph, client: Client, receiver: Receiver) -> None:
    graph.fail_later(code=131049)
    status, _ = client.post(text("m1"))
    graph.wait_until(lambda counts: counts.webhooks.delivered == 1)

    assert status == 200
    [value] = receiver.values()
    [failed] = value["statuses"]
    assert "contacts" not in value
    assert failed["status"] == "failed"
    assert "recipient_user_id" not in failed
    [error] = failed["errors"]
    assert error["code"] == 131049
    assert error["title"] == error["message"]
    assert error["error_data"]["details"]
    assert error["href"].startswith("https://")


def test_a_share_of_messages_fails(graph: Graph, client: Client, receiver: Receiver) -> None:
    graph.statuses(sent_ms=1, delivered_ms=1, read_ms=1, failed_ms=1, failed_share=0.5, failed_code=131026, seed=7)
    for at in range(40):
        client.post(text(f"m{at}"))
    graph.wait_until(lambda counts: counts.webhooks.settled)

    ends = {
        one["biz_opaque_callback_data"]: one["status"]
        for one in receiver.statuses()
        if one["status"] in ("failed", "read")
    }
    assert len(ends) == 40
    assert 5 < Counter(ends.values())["failed"] < 35


def test_order_is_shuffled(graph: Graph, client: Client, receiver: Receiver) -> None:
    graph.statuses(sent_ms=1, delivered_ms=250, read_ms=500, shuffle_share=1)
    for at in range(5):
        client.post(text(f"m{at}"))
    graph.wait_until(lambda counts: counts.webhooks.updates_delivered == 15)

    for at in range(5):
        mine = [one for one in receiver.statuses() if one["biz_opaque_callback_data"] == f"m{at}"]
        assert sorted(one["status"] for one in mine) == ["delivered", "read", "sent"]
        assert [one["status"] for one in mine] != ["sent", "delivered", "read"]


def test_duplicates_are_the_same_update_again(graph: Graph, client: Client, receiver: Receiver) -> None:
    graph.statuses(sent_ms=1, delivered_ms=2, read_ms=3, duplicate_share=1)
    client.post(text("m1"))
    graph.wait_until(lambda counts: counts.webhooks.updates_delivered == 6)

    statuses = receiver.statuses()
    assert Counter(one["status"] for one in statuses) == {"sent": 2, "delivered": 2, "read": 2}
    assert all(statuses.count(one) == 2 for one in statuses)


def test_statuses_share_posts(graph: Graph, client: Client, receiver: Receiver) -> None:
    colombian = Client(graph, "CO")
    graph.statuses(sent_ms=1, delivered_ms=1, read_ms=1, batch=1000, batch_wait_ms=300)
    graph.fail_later(code=131026, callback_data="m3")
    for at in range(4):
        client.post(text(f"m{at}"))
    colombian.post(text("c1", to="+573001234567"))
    colombian.close()
    graph.wait_until(lambda counts: counts.webhooks.updates_delivered == 13)

    assert len(receiver.posts) == 1
    places = {
        value["metadata"]["phone_number_id"]: {
            one["biz_opaque_callback_data"]
            for other in receiver.values()
            if other["metadata"] == value["metadata"]
            for one in other["statuses"]
        }
        for value in receiver.values()
    }
    assert places == {
        client.number.phone_number_id: {"m0", "m1", "m2", "m3"},
        colombian.number.phone_number_id: {"c1"},
    }


def test_delivered_may_be_skipped(graph: Graph, client: Client, receiver: Receiver) -> None:
    graph.statuses(sent_ms=1, read_ms=2, skip_delivered_share=1)
    client.post(text("m1"))
    graph.wait_until(lambda counts: counts.webhooks.updates_delivered == 2)

    assert {one["status"] for one in receiver.statuses()} == {"sent", "read"}
    assert all("pricing" in one for one in receiver.statuses())


def test_a_reaction_is_only_sent(graph: Graph, client: Client, receiver: Receiver) -> None:
    reaction = {"message_id": "wamid.A", "emoji": "👍"}
    message = {"messaging_product": "whatsapp", "to": PHONE, "type": "reaction", "reaction": reaction}
    client.post(message)
    client.post(text("m1"))
    graph.wait_until(lambda counts: counts.webhooks.updates_delivered == 4)

    untagged = [one["status"] for one in receiver.statuses() if "biz_opaque_callback_data" not in one]
    assert untagged == ["sent"]


def test_webhooks_come_again_until_200(graph: Graph, client: Client, receiver: Receiver) -> None:
    receiver.answers = [503, 401, 202]
    graph.statuses(sent_ms=1, read_share=0, delivered_ms=10_000)
    client.post(text("m1"))
    counts = graph.wait_until(lambda counts: counts.webhooks.delivered == 1)

    assert counts.webhooks.refused == {503: 1, 401: 1, 202: 1}
    assert len(receiver.posts) == 4
    assert len(set(receiver.posts)) == 1


def test_a_dead_feed_delivers_later(graph: Graph, client: Client, receiver: Receiver) -> None:
    graph.pause_webhooks()
    client.post(text("m1"))
    held = graph.wait_until(lambda counts: counts.webhooks.pending == 3)
    assert (held.webhooks.delivered, receiver.posts) == (0, [])

    graph.pause_webhooks(False)
    graph.wait_until(lambda counts: counts.webhooks.delivered == 3)
    assert len(receiver.posts) == 3


def test_a_lost_answer_still_reports(graph: Graph, client: Client, receiver: Receiver) -> None:
    graph.lose_answers()
    with pytest.raises(ConnectionError):
        client.post(text("m1"))
    graph.wait_until(lambda counts: counts.webhooks.updates_delivered == 3)

    assert {one["biz_opaque_callback_data"] for one in receiver.statuses()} == {"m1"}


def test_a_held_message_reports_when_told(graph: Graph, client: Client, receiver: Receiver) -> None:
    graph.hold()
    _, answer = client.post(text("m1"))
    graph.status(answer["messages"][0]["id"], "failed", code=132015)
    graph.wait_until(lambda counts: counts.webhooks.delivered == 1)

    assert answer["messages"][0]["message_status"] == "held_for_quality_assessment"
    [failed] = receiver.statuses()
    assert failed["errors"][0]["code"] == 132015


def test_free_form_outside_the_window_fails_later(graph: Graph, client: Client, receiver: Receiver) -> None:
    graph.windows()
    assert client.post(text("early"))[0] == 200
    graph.customer_writes(client.number, PHONE, "hola")
    assert client.post(text("later"))[0] == 200
    graph.wait_until(lambda counts: counts.webhooks.updates_delivered == 5)

    by_tag: dict[str, list[str]] = {"early": [], "later": []}
    for one in receiver.statuses():
        by_tag[one["biz_opaque_callback_data"]].append(one["status"])
    assert by_tag["early"] == ["failed"]
    assert sorted(by_tag["later"]) == ["delivered", "read", "sent"]


def test_a_customer_writes(graph: Graph, client: Client, receiver: Receiver) -> None:
    sent_id = graph.customer_writes(client.number, PHONE, "¿Qué tal?", name="Ana", at=1_790_000_000)
    graph.wait_until(lambda counts: counts.webhooks.delivered == 1)

    [value] = receiver.values()
    person = graph.user_id(PHONE)
    assert value["contacts"] == [{"profile": {"name": "Ana"}, "wa_id": WA_ID, "user_id": person}]
    assert value["messages"] == [
        {
            "from": WA_ID,
            "from_user_id": person,
            "id": sent_id,
            "timestamp": "1790000000",
            "type": "text",
            "text": {"body": "¿Qué tal?"},
        }
    ]


def test_a_customer_may_hide_the_phone(graph: Graph, client: Client, receiver: Receiver) -> None:
    graph.customer_writes(client.number, None, "hola", user_id="MX.77")
    client.post({key: value for key, value in text("m1").items() if key != "to"} | {"recipient": "MX.77"})
    graph.wait_until(lambda counts: counts.webhooks.updates_delivered == 4)

    [message] = [one for value in receiver.values() for one in value.get("messages", [])]
    assert "from" not in message
    assert message["from_user_id"] == "MX.77"
    assert {one["recipient_user_id"] for one in receiver.statuses()} == {"MX.77"}
    assert all("recipient_id" not in one for one in receiver.statuses())
    assert all(value["contacts"] == [{"user_id": "MX.77"}] for value in receiver.values())


def test_template_states_change_and_are_told(graph: Graph, client: Client, receiver: Receiver) -> None:
    template = {"name": "plain", "language": {"code": "es_MX"}}
    message = {"messaging_product": "whatsapp", "to": PHONE, "type": "template", "template": template}
    graph.template_status(client.number, "plain", "es_MX", "PAUSED", reason="NONE")
    graph.wait_until(lambda counts: counts.webhooks.delivered == 1)

    [value] = receiver.values()
    assert value["event"] == "PAUSED"
    assert (value["message_template_name"], value["message_template_language"]) == ("plain", "es_MX")
    assert isinstance(value["message_template_id"], int)
    assert client.post(message)[1]["error"]["code"] == 132015
    graph.template_status(client.number, "plain", "es_MX", "REINSTATED")
    assert client.post(message)[0] == 200


def test_any_body_goes_out_signed_or_wrongly_signed(graph: Graph, receiver: Receiver) -> None:
    graph.webhook('{"object": "something else"}')
    graph.webhook({"entry": []}, signature="sha256=00")
    graph.wait_until(lambda counts: counts.webhooks.delivered == 2)

    right = signature(graph.world.app_secret, b'{"object": "something else"}')
    assert sorted(receiver.posts) == sorted([(b'{"object": "something else"}', right), (b'{"entry":[]}', "sha256=00")])


def test_the_handshake(graph: Graph, receiver: Receiver) -> None:
    assert graph.verify()
    receiver.verify_token = "another"
    assert not graph.verify()


async def test_async_tests_wait_without_blocking_the_loop(graph: Graph, client: Client, receiver: Receiver) -> None:
    client.post(text("m1"))
    counts = await graph.until(lambda counts: counts.webhooks.updates_delivered == 3)

    assert counts.accepted == 1
    with pytest.raises(TimeoutError):
        await graph.until(lambda counts: counts.accepted == 2, timeout=0.05)
