"""What a failed call to the database means, whichever way it went, and how often it is tried.

Between us and the tables stand a gateway and PostgREST, or a pooler, and then Postgres. Each fails in its own words,
and each gives a code. Only a short list of codes says that a value can never be stored: that is `Rejected`. Everything
else may pass: every verb is safe to repeat, so it is tried again here for a while, and what remains is refused as
`database_unavailable` or `database_timeout` (`Unavailable`), with the true code in the log.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from services.whatsapp import log
from services.whatsapp.refusals import RefusalError, describe

ATTEMPTS = 4
TOTAL = 20.0
"""Seconds a call may take in all, its repetitions included: well below a lease, and below what cron waits for."""
_WAIT, _LONGEST_WAIT = 0.1, 1.0
"""Seconds before the second attempt at the most, and before any later one."""

_NEVER = re.compile(r"22[0-9A-Z]{3}|2350[23]|23514|54[0-9A-Z]{3}|PT4\d\d|PGRST10[02]|413")
"""The codes that say: this can never be stored. Data exceptions, a column that must not be empty, a row
that must be there, a check, a limit of Postgres; our own refusals; a request that cannot be read or is too large. A
duplicate key (23505) is none of them: it is what two transactions that write the same row at once may meet."""
_STATEMENT = re.compile(r"(?!08|25|28|42|53|57P|58|0[LP])[0-9A-Z]{5}|SUP")
"""Codes of one statement that failed, such as a deadlock, a duplicate key or an internal error: less at a time may do.
The others (no connection, no right, no function, a server that is starting) would meet every call. Supabase Lite says
SUP of whatever it has no word for."""
_NOT_BEGUN = re.compile(r"(25|28|42|53)[0-9A-Z]{3}|PGRST\d+|401|403|404|429")
"""Codes of calls that were turned away before anything was written."""
_CANCELED = "57014"

_log = log.get("database")

Answer = TypeVar("Answer")


class Rejected(Exception):
    """The database refused the arguments of a verb; the same call would be refused again."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Unavailable(RefusalError):
    """The database did not do it in the time there was.

    `cause` is the code it gave; `divisible` says that a single statement failed, so that part of what was asked may
    succeed; `perhaps_done`, that it may have been done without our hearing of it.
    """

    def __init__(self, code: str, cause: str, *, divisible: bool, perhaps_done: bool) -> None:
        refusal = describe(code)
        assert refusal is not None  # noqa: S101 - a row of our own table
        super().__init__(refusal, refusal.message, None, None)
        self.cause = cause
        self.divisible = divisible
        self.perhaps_done = perhaps_done


class Failed(Exception):
    """One attempt failed. A client makes this of whatever its library raises.

    `code` is what was answered, or where nothing was, the name of what happened. `sent` says that the call may have
    reached the database, `lost` that its connection went with it, `late` that it was given up waiting for.
    """

    def __init__(self, code: str, reason: str, *, sent: bool = True, lost: bool = False, late: bool = False) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.late = late or code == _CANCELED
        self.is_final = sent and _NEVER.fullmatch(code) is not None
        self.divisible = sent and not lost and _STATEMENT.fullmatch(code) is not None
        self.perhaps_done = sent and not self.divisible and _NOT_BEGUN.fullmatch(code) is None


Verdict = Callable[[Failed], Exception | None]
"""What a failure is that will not pass for a reason of the caller's, or None."""


async def persist(
    call: Callable[[], Awaitable[Answer]],
    name: str,
    *,
    attempts: int = ATTEMPTS,
    verdict: Verdict | None = None,
    failures: list[Failed] | None = None,
) -> Answer:
    """What `call` answers, repeated while it is `Failed` in a way that may pass. `name` is for the log.

    `failures` is filled with the attempts that failed, for whom it is not enough that the last one did not.
    """
    failures = [] if failures is None else failures

    def may_pass(error: BaseException) -> bool:
        return isinstance(error, Failed) and not error.is_final and not (verdict and verdict(error))

    async def attempt() -> Answer:
        if failures:
            _log.warning("trying_again", call=name, code=failures[-1].code)
        try:
            return await call()
        except Failed as error:
            failures.append(error)
            raise

    try:
        async with asyncio.timeout(TOTAL):
            try:
                return await attempt()
            except Failed as error:
                if attempts == 1 or not may_pass(error):
                    raise
            return await _again(attempt, attempts - 1, may_pass)
    except Failed as error:
        raise (verdict and verdict(error)) or _as_ours(failures, name) from error
    except TimeoutError as error:
        failures.append(Failed(type(error).__name__, "", late=True))
        raise _as_ours(failures, name) from error


async def _again(
    attempt: Callable[[], Awaitable[Answer]], attempts: int, may_pass: Callable[[BaseException], bool]
) -> Answer:
    """Further attempts after one that failed, each after a longer wait."""
    # Imported here: nearly every call needs one attempt, and no process should wait for this at its start.
    from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

    await asyncio.sleep(random.uniform(0, _WAIT))  # noqa: S311 - not for secrets
    async for each in AsyncRetrying(
        retry=retry_if_exception(may_pass),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=2 * _WAIT, max=_LONGEST_WAIT),
        reraise=True,
    ):
        with each:
            return await attempt()
    raise AssertionError("a retry either returns or raises")


def in_doubt(failures: Sequence[Failed]) -> Unavailable | None:
    """What to say instead of a no that an earlier attempt, of which nobody has heard, may still turn into a yes."""
    if not any(each.perhaps_done for each in failures):
        return None
    return Unavailable("database_unavailable", failures[-1].code, divisible=False, perhaps_done=True)


def _as_ours(failures: Sequence[Failed], name: str) -> Rejected | Unavailable:
    """What a call's failures, the last one last, come to."""
    last = failures[-1]
    if last.is_final:
        return Rejected(last.code, last.reason)
    _log.error("database_failed", call=name, code=last.code, attempts=len(failures), error=last)
    return Unavailable(
        "database_timeout" if last.late else "database_unavailable",
        last.code,
        divisible=last.divisible,
        perhaps_done=any(each.perhaps_done for each in failures),
    )
