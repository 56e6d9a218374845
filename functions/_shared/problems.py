"""Error answers: every refusal and every accident becomes the same small JSON body.

A refusal says what the caller can do. An accident says nothing but the request's id, under which the log has
the rest.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from functions._shared.answers import Answer
from services.whatsapp import log
from services.whatsapp.refusals import RefusalError, refuse

_RETRY_AFTER_SECONDS = "5"


class Disconnected(Exception):
    """The caller hung up before its request was read. Nobody is left to answer."""


def refusal_answer(error: RefusalError) -> Answer:
    """The answer for `error`. Its code is also in the header that Supabase's own functions use."""
    headers = {"x-supabase-server-error": error.code}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status in (429, 503):
        headers["retry-after"] = _RETRY_AFTER_SECONDS
    if error.status == 408:
        headers["connection"] = "close"
    return Answer(error.body(), error.status, headers)


def with_problems(app: ASGIApp, name: str) -> ASGIApp:
    """`app` (the function called `name`) with exceptions answered.

    One raised after the answer began goes on up.
    """
    log_of_function = log.get(name)

    async def problems(scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await app(scope, receive, watch)
        except Disconnected:
            log_of_function.info("caller_hung_up")
        except Exception as error:
            refusal = error if isinstance(error, RefusalError) else _as_refusal(error)
            _record(refusal, error, log_of_function)
            if started:
                raise
            await refusal_answer(refusal)(scope, receive, send)

    return problems


def _record(refusal: RefusalError, cause: Exception, log_of_function: log.Log) -> None:
    if refusal.status < 500:
        log_of_function.info("refused", code=refusal.code, field=refusal.field)
    else:
        log_of_function.error("failed", code=refusal.code, error=cause)


def _as_refusal(error: Exception) -> RefusalError:
    # Imported here: neither is loaded in a process that has never had such an error.
    from starlette.exceptions import HTTPException

    from services.whatsapp.settings import ConfigurationError

    request = f"request {log.request_id.get()}"
    if isinstance(error, ConfigurationError):
        log.get("settings").error("misconfigured", variable=error.variable, problem=error.reason)
        return refuse("configuration_error", reason=request)
    if isinstance(error, HTTPException) and error.status_code == 404:
        return refuse("not_found")
    if isinstance(error, HTTPException) and 400 <= error.status_code < 500:
        return refuse("invalid_request")
    return refuse("internal_error", reason=request)
