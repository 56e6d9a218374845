"""The shape of a campaign's progress."""

from services.whatsapp.clients.verbs import Progress
from services.whatsapp.flows.progress import view


def progress(counts: dict[str, int]) -> Progress:
    return {
        "country_id": "MX",
        "campaign_id": "c",
        "account": "main",
        "name": "spring",
        "template": {"name": "plain", "language": "es_MX"},
        "state": "paused",
        "reason": "by_a_person",
        "by": "ana",
        "since": "2026-12-24T15:20:00+00:00",
        "send_at": None,
        "valid_until": None,
        "held": None,
        "counts": counts,
    }


def test_progress_sorts_counts_by_kind() -> None:
    counts = {"read": 5, "failed": 3, "expired": 1, "failed:131026": 2, "failed:unknown": 1}
    counts |= {"refused:message_expired": 1, "cost:marketing": 4}
    seen = view(progress(counts))
    assert seen["version"] != view(progress({"read": 6}))["version"]
    kept = {name: value for name, value in progress(counts).items() if name != "counts"}
    assert seen == kept | {
        "version": seen["version"],
        "total": 9,
        "states": {"read": 5, "failed": 3, "expired": 1},
        "failed_by_code": {"131026": 2, "unknown": 1},
        "refused_by_code": {"message_expired": 1},
        "charged_by_category": {"marketing": 4},
    }


def test_progress_of_nobody_is_zero() -> None:
    assert view(progress({}))["total"] == 0
