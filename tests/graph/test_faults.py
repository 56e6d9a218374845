"""The script of faults, the limits, and the counts of what really arrived."""

import http.client
import time
from typing import Any

import orjson
import pytest

from tests.graph import Graph
from tests.graph.conftest import Client, Receiver

Json = dict[str, Any]
PHONE = "+525520304050"
OTHER = "+525520304051"


def text(tag: str | None = None, to: str = PHONE) -> Json:
    message: Json = {"messaging_product": "whatsapp", "to": to, "type": "text", "text": {"body": "hola"}}
    return message if tag is None else message | {"biz_opaque_callback_data": tag}


def test_the_next_messages_fail_with_a_code(graph: Graph, client: Client) -> None:
    graph.fail_next(2, code=130429)
    answers = [client.post(text(f"m{at}")) for at in range(3)]

    assert [status for status, _ in answers] == [400, 400, 200]
    assert answers[0][1]["error"]["message"] == "(#130429) Rate limit hit"
    assert [one.code for one in graph.arrived()] == [130429, 130429, None]


def test_a_fault_finds_its_message(graph: Graph, client: Client) -> None:
    graph.fail_next(None, code=131026, to=OTHER)
    graph.fail_next(code=131000, http_status=503, callback_data="m2", details="try later")
    codes = [client.post(text(f"m{at}", to))[0] for at, to in enumerate([PHONE, OTHER, PHONE, OTHER, PHONE])]

    assert codes == [200, 400, 503, 400, 200]
    graph.clear_faults()
    assert client.post(text(to=OTHER))[0] == 200


def test_a_fault_of_one_number_leaves_the_other_alone(graph: Graph, client: Client) -> None:
    graph.fail_next(None, code=368, number=graph.world.number("CO"))

    assert client.post(text())[0] == 200


def test_a_lost_answer_is_accepted_all_the_same(graph: Graph, client: Client) -> None:
    graph.lose_answers()
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        client.post(text("m1"))

    [arrival] = graph.arrived()
    assert arrival.accepted
    assert (arrival.fate, arrival.http_status) == ("lost", None)
    assert client.post(text("m1"))[0] == 200
    assert graph.double_sent() == {"m1": 2}
    assert graph.counts().double_sent == 1


def test_closed_before_reading_never_arrives(graph: Graph, client: Client) -> None:
    assert client.post(text())[0] == 200
    graph.close_unread(1)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        client.post(text("m1"))

    counts = graph.counts()
    assert (counts.arrived, counts.closed_unread) == (1, 1)
    assert client.post(text("m1"))[0] == 200
    assert graph.counts().double_sent == 0


def test_refused_connections_come_back(graph: Graph, client: Client) -> None:
    graph.refuse_connections()
    with pytest.raises(ConnectionRefusedError):
        client.post(text())
    graph.accept_connections()

    assert client.post(text())[0] == 200


def test_idle_connections_can_be_cut(graph: Graph, client: Client) -> None:
    client.post(text())

    assert graph.cut() == 1
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        client.post(text())
    assert client.post(text())[0] == 200


@pytest.mark.parametrize("accept", [True, False])
def test_a_server_error_is_not_json(graph: Graph, client: Client, accept: bool) -> None:
    graph.server_error(http_status=503, accept=accept)
    status, body = client.post(text())

    assert status == 503
    assert body.startswith(b"<html>")
    assert graph.counts().accepted == int(accept)


def test_a_mute_message_is_taken_and_never_spoken_of(graph: Graph, client: Client, receiver: Receiver) -> None:
    graph.mute()
    assert client.post(text("m1"))[0] == client.post(text("m2"))[0] == 200

    graph.wait_until(lambda counts: counts.webhooks.updates_delivered == 3)
    assert graph.counts().accepted == 2
    assert {one["biz_opaque_callback_data"] for one in receiver.statuses()} == {"m2"}


def test_lost_statuses_never_come(graph: Graph, client: Client, receiver: Receiver) -> None:
    graph.statuses(sent_ms=1, lost_share=1)
    assert client.post(text("m1"))[0] == 200
    graph.statuses(sent_ms=1, delivered_ms=1, read_ms=1)
    assert client.post(text("m2"))[0] == 200

    graph.wait_until(lambda counts: counts.webhooks.updates_delivered == 3)
    assert {one["biz_opaque_callback_data"] for one in receiver.statuses()} == {"m2"}


def test_a_hung_request_gets_no_answer(graph: Graph, client: Client) -> None:
    graph.hang(seconds=0.05, accept=False)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        client.post(text())

    [arrival] = graph.arrived()
    assert (arrival.fate, arrival.accepted) == ("hung", False)


def test_a_slow_answer_is_late(graph: Graph, client: Client) -> None:
    graph.slow(seconds=0.1)
    began = time.monotonic()
    status, _ = client.post(text())

    assert status == 200
    assert time.monotonic() - began >= 0.1


def test_a_client_that_left_is_seen(graph: Graph, client: Client) -> None:
    graph.slow(seconds=0.05)
    impatient = http.client.HTTPConnection(graph.url.removeprefix("http://"), timeout=5)
    path = f"/v25.0/{client.number.phone_number_id}/messages"
    impatient.request("POST", path, orjson.dumps(text()), {"Authorization": f"Bearer {client.token}"})
    graph.wait_until(lambda counts: counts.accepted == 1)
    impatient.close()
    graph.wait_until(lambda _: graph.arrived()[0].fate != "pending")

    assert graph.arrived()[0].fate == "client_gone"


def test_latency_is_at_least_what_was_asked_for(graph: Graph, client: Client) -> None:
    graph.latency(40)
    began = time.monotonic()
    client.post(text())

    assert 0.04 <= time.monotonic() - began < 1


def test_above_the_rate_of_a_number_comes_130429(graph: Graph, client: Client) -> None:
    graph.throttle(client.number, 3)
    statuses = [client.post(text())[0] for _ in range(5)]

    assert statuses == [200, 200, 200, 400, 400]
    assert graph.counts().codes == {130429: 2}
    assert graph.peak(client.number) == 5


def test_inbound_messages_count_towards_the_rate(graph: Graph, client: Client) -> None:
    graph.throttle(client.number, 2)
    graph.customer_writes(client.number, PHONE, "hola")
    statuses = [client.post(text())[0] for _ in range(2)]

    assert statuses == [200, 400]


def test_above_the_rate_of_a_pair_comes_131056(graph: Graph, client: Client) -> None:
    graph.pair_rate(every_seconds=60, burst=2)
    codes = [client.post(text(to=to))[0] for to in (PHONE, PHONE, PHONE, OTHER)]

    assert codes == [200, 200, 400, 200]
    assert graph.counts().codes == {131056: 1}


def test_arrivals_tell_everything(graph: Graph, client: Client) -> None:
    before, wall = time.monotonic(), time.time()
    _, answer = client.post(text("m1"))
    after = time.monotonic()
    [arrival] = graph.arrived(client.number, "m1")

    assert arrival.seq == 1
    assert arrival.number_id == client.number.phone_number_id
    assert (arrival.to, arrival.type, arrival.callback_data) == (PHONE, "text", "m1")
    assert arrival.body == text("m1")
    assert arrival.wamid == answer["messages"][0]["id"]
    assert (arrival.http_status, arrival.code, arrival.fate) == (200, None, "answered")
    assert before <= arrival.monotonic <= after
    assert abs(arrival.wall - wall) < 5


def test_counts_are_per_number_and_second(graph: Graph, client: Client) -> None:
    for tag in ("m1", "m2", "m1"):
        client.post(text(tag))
    counts = graph.counts()
    mine = counts.of(client.number)

    assert (counts.arrived, counts.accepted, counts.repeated, counts.double_sent) == (3, 3, 1, 1)
    assert (mine["arrived"], mine["accepted"]) == (3, 3)
    assert sum(mine["per_second"].values()) == 3
    assert counts.of(graph.world.number("CO"))["arrived"] == 0
    assert graph.repeated() == {"m1": 2}


def test_a_repeat_after_a_refusal_is_no_double_send(graph: Graph, client: Client) -> None:
    graph.fail_next(code=130429)
    client.post(text("m1"))
    client.post(text("m1"))

    assert graph.repeated() == {"m1": 2}
    assert graph.double_sent() == {}


def test_reset_forgets(graph: Graph, client: Client) -> None:
    graph.tokens(client.number, [])
    graph.fail_next(None, code=131000)
    graph.throttle(client.number, 0)
    client.post(text())
    graph.reset()

    assert graph.counts().arrived == 0
    assert client.post(text())[0] == 200


@pytest.mark.parametrize("verb", ["no_such_verb", "_number"])
def test_unknown_verbs_are_told(graph: Graph, verb: str) -> None:
    with pytest.raises(ValueError, match="no verb"):
        graph._call(verb)


def test_the_control_api_is_not_on_the_port_of_the_product(client: Client) -> None:
    status, answer = client.get("/_control/counts")

    assert (status, answer["error"]["code"]) == (400, 2500)
