"""The shape of a campaign's progress."""

from services.whatsapp.flows.progress import view


def test_progress_sorts_counts_by_kind() -> None:
    counts = {"read": 5, "failed": 3, "expired": 1, "failed:131026": 2, "failed:unknown": 1}
    counts |= {"refused:message_expired": 1, "cost:marketing": 4}
    seen = view({"campaign_id": "c", "state": "running", "counts": counts})
    version = seen.pop("version")
    assert version != view({"campaign_id": "c", "state": "running", "counts": {"read": 6}})["version"]
    assert seen == {
        "campaign_id": "c",
        "state": "running",
        "total": 9,
        "states": {"read": 5, "failed": 3, "expired": 1},
        "failed_by_code": {"131026": 2, "unknown": 1},
        "refused_by_code": {"message_expired": 1},
        "charged_by_category": {"marketing": 4},
    }


def test_progress_of_nobody_is_zero() -> None:
    assert view({"counts": {}})["total"] == 0
