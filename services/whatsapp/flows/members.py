"""Who may write for a country, as far as it can be said before a request is read any further.

The verbs ask again in their own transaction, so that a membership taken away works at once; this answer may be two
seconds old. It is for those who may not: they learn nothing of a country and cost nothing but this.
"""

from services.whatsapp.actors import Actor, Server
from services.whatsapp.kept import Kept
from services.whatsapp.refusals import refuse
from services.whatsapp.runtime import Runtime

_SECONDS = 2.0
_MOST = 10_000
_WRITERS = frozenset({"operator", "admin"})

Roles = dict[str, str]
"""A user's role by country."""


async def check(runtime: Runtime, actor: Actor, country_id: str | None = None, *, now: bool = False) -> None:
    """Refuses `not_a_member` and `role_too_low`: of `country_id`, or where it is not known yet, of every country.

    A server may write for every country. `now` asks the database, whatever it said a moment ago.
    """
    if isinstance(actor, Server):
        return
    roles = await (runtime.verbs.roles_of(actor.user_id) if now else runtime.part(_known).get(actor.user_id))
    held = roles.values() if country_id is None else [roles[country_id]] if country_id in roles else []
    if not held:
        raise refuse("not_a_member", field="country_id")
    if _WRITERS.isdisjoint(held):
        raise refuse("role_too_low", field="country_id")


def _known(runtime: Runtime) -> Kept[str, Roles]:
    return Kept(runtime.verbs.roles_of, seconds=_SECONDS, most=_MOST)
