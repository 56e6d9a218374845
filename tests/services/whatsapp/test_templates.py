"""Syncing templates: what is wrong with one account stops no other."""

from services.whatsapp import graph, store, templates
from services.whatsapp.settings import Settings
from tests.graph.process import graph_process
from tests.graph.world import World
from tests.local.stack import Stack


async def test_an_account_without_a_row_is_reported_and_stops_no_other(stack: Stack) -> None:
    """AR's account `main` is in the environment and has no row in whatsapp.accounts; it comes before MX."""
    async with graph_process(World.random(("AR", "MX"))) as meta:
        settings = Settings.read(stack.env() | meta.env())
        try:
            reports = await templates.sync(settings)
        finally:
            await graph.close_shared()
            await store.close_shared()
    assert [report["country_id"] for report in reports] == ["AR", "MX"]
    assert reports[0]["error"] == {"code": "PT404", "message": "no such account"}
    assert reports[1]["stored"] == len(meta.world.templates[meta.world.number("MX").waba_id])
