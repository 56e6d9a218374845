"""The pure part of the flow of consent: what a row is to the database."""

from services.whatsapp.flows.consents import _row

PHONE = "+525512345678"


def test_a_row_is_ready_for_the_database() -> None:
    given = {"to": PHONE, "action": "opt_in", "scope": "marketing", "how": "web form", "proof": "Sí, quiero"}
    assert _row({"country_id": "MX"}, 7, given | {"at": "2026-01-02T03:04:05-06:00"}) == {
        "row": 7,
        "phone": PHONE,
        "match_key": "525512345678",
        "bsuid": None,
        "contact_id": None,
        "what": "opt_in",
        "scope": "marketing",
        "at": "2026-01-02T09:04:05+00:00",
        "how": "web form",
        "proof": "Sí, quiero",
    }
