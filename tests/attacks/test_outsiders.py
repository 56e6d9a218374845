"""Who is no member of a country learns nothing of it: neither its templates nor whether a key was used."""

import uuid

import pytest

from tests.proofs.house import House, Row, check_refusal, some_phone

LACKING: Row = {"type": "template", "template": {"name": "order_update", "language": {"code": "es_MX"}}}
NOWHERE: Row = {"type": "template", "template": {"name": "nothing_here", "language": {"code": "es_MX"}}}
FULL: Row = {
    "type": "template",
    "template": {
        "name": "order_update",
        "language": {"code": "es_MX"},
        "components": [{"type": "body", "parameters": [{"type": "text", "text": text} for text in ("Ana", "A1")]}],
    },
}


@pytest.mark.parametrize("message", [LACKING, NOWHERE, FULL], ids=["lacking", "unknown", "good"])
@pytest.mark.parametrize("used", [True, False], ids=["used key", "new key"])
async def test_every_send_of_an_outsider_is_answered_the_same(house: House, message: Row, used: bool) -> None:
    key = str(uuid.uuid4())
    if used:
        await house.send(some_phone(), FULL, key=key)

    body = check_refusal(await house.post(some_phone(), message, user="CO", key=key), 403, "not_a_member")

    assert body["details"] == "country_id"


@pytest.mark.parametrize(("user", "code"), [("nobody", "not_a_member"), ("viewer", "role_too_low")])
async def test_a_template_is_judged_only_for_those_who_may_send_it(house: House, user: str, code: str) -> None:
    check_refusal(await house.post(some_phone(), LACKING, user=user), 403, code)
    check_refusal(await house.post(some_phone(), LACKING), 422, "template_parameters")


async def test_a_membership_taken_away_works_at_once(house: House) -> None:
    user = house.sign_up("leaver", {"MX": "operator"})
    assert (await house.post(some_phone(), FULL, user="leaver")).status_code == 202

    house.run("delete from whatsapp.members where user_id = %s", user.user_id)

    check_refusal(await house.post(some_phone(), FULL, user="leaver"), 403, "not_a_member")
