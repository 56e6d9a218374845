"""Meta's errors as data: what each code means, what to tell the user and what the queue does about it.

Codes and meanings: Meta's page support/error-codes and the pages of each API; what to do about them is our
decision. The same error may come as the answer to a POST, in a webhook, or both. Only an answer may requeue a
message: a code that arrives by webhook is about a message Meta had accepted, so its `disposition` no longer
applies, its `effect` does.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypedDict

_Fields = Mapping[str, object]
"""An error object of Meta's, whatever is in it."""


class Disposition(StrEnum):
    """What happens to the message itself."""

    RETRY = "retry"
    """Try again with exponential backoff, `attempts` times in all."""
    WAIT = "wait"
    """Back to the queue for `wait_seconds`; costs no attempt, for nothing is wrong with the message."""
    HOLD = "hold"
    """Back to the queue until the account or template it needs is running again."""
    PERMANENT = "permanent"
    """This message has failed."""


class Effect(StrEnum):
    """What happens beyond the message. `wait_seconds`, where not 0, is how long it lasts."""

    NONE = "none"
    CLOSE_WINDOW = "close_window"
    """The 24-hour window of this conversation is shut, whatever our clock says."""
    COOL_CONTACT = "cool_contact"
    """No marketing to this person for `wait_seconds`."""
    OPT_OUT = "opt_out"
    """No marketing to this person until they resume it."""
    PAUSE_TEMPLATE = "pause_template"
    """Stop this template in this language, for `wait_seconds` or until Meta reports it approved."""
    REST_TEMPLATE = "rest_template"
    """Too much of this template for now: its campaigns rest for `wait_seconds`. Meta has not paused it."""
    DISABLE_TEMPLATE = "disable_template"
    """This template is gone for good."""
    REFRESH_TEMPLATE = "refresh_template"
    """Our copy of the template is stale: read it again before sending it again."""
    PAUSE_TEMPLATES = "pause_templates"
    """Nothing the business begins leaves this account for `wait_seconds`: no template. Replies go on."""
    POLICY_BLOCK = "policy_block"
    """Meta's ladder for policy violations. Its first rungs stop templates, for `wait_seconds`; once even a reply is
    refused, everything is stopped, until a person resumes the account."""
    PAUSE_ACCOUNT = "pause_account"
    """Send nothing from this account for `wait_seconds`, or until Meta or a person resumes it."""
    STOP_ACCOUNT = "stop_account"
    """Credentials or set-up are broken: send nothing until a person has repaired them."""
    SLOW_DOWN = "slow_down"
    """The number is faster than Meta allows: lower its rate (additive increase, multiplicative decrease)."""
    PAIR_WAIT = "pair_wait"
    """Too many messages to this one person: wait 4^x seconds, x counting from 0 (`pacing.pair_delay`)."""


@dataclass(frozen=True, slots=True)
class MetaError:
    """One row of the table.

    `attempts` bounds how often a message may meet this error before it fails; 0 means no bound.
    `wait_seconds` is how long to wait or how long the effect lasts; 0: not at all, or until ended.
    """

    code: int | None
    title: str
    advice: str
    disposition: Disposition = Disposition.PERMANENT
    effect: Effect = Effect.NONE
    wait_seconds: int = 0
    attempts: int = 0
    known: bool = True


class Explanation(TypedDict):
    """A failure as it is stored and shown."""

    code: int | None
    title: str
    details: str | None
    advice: str
    disposition: str
    effect: str
    wait_seconds: int
    attempts: int
    known: bool
    fbtrace_id: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it happened: Meta's code and words (redacted), and the row of the table explaining it."""

    code: int | None
    title: str
    details: str | None
    fbtrace_id: str | None
    entry: MetaError

    def as_dict(self) -> Explanation:
        return {
            "code": self.code,
            "title": self.title,
            "details": self.details,
            "advice": self.entry.advice,
            "disposition": self.entry.disposition.value,
            "effect": self.entry.effect.value,
            "wait_seconds": self.entry.wait_seconds,
            "attempts": self.entry.attempts,
            "known": self.entry.known,
            "fbtrace_id": self.fbtrace_id,
        }


_RETRY, _WAIT, _HOLD, _PERMANENT = Disposition
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400

_REPAIR_ACCESS = "The access token or its permissions must be repaired before this number can send."
_REGISTER = "The number must be registered again at Meta before it can send."
_TRY_LATER = "Nothing to do: it is tried again automatically."
_OUT_OF_SCOPE = "This feature of Meta is not used by this product."
_FIX_MESSAGE = "Correct the message and send it as a new one."
_FIX_PARAMETERS = "Compare the parameters with the approved template and send a new message."
_FIX_TEMPLATE = "Correct the template definition and submit it again."
_HEALTH = "See what the health status of the account names as its cause and remedy."
_INBOUND = "The customer's message cannot be shown: ask them to send it another way."

_ROWS = (
    # Access and Graph in general
    MetaError(0, "Cannot authenticate the app", _REPAIR_ACCESS, _HOLD, Effect.STOP_ACCOUNT),
    MetaError(
        1,
        "Unknown API error",
        "If it keeps failing, check the message against Meta's format.",
        _RETRY,
        attempts=2,
    ),
    MetaError(2, "Meta's service is temporarily unavailable", _TRY_LATER, _RETRY, attempts=5),
    MetaError(3, "The app lacks a capability", _REPAIR_ACCESS, _HOLD, Effect.STOP_ACCOUNT),
    MetaError(4, "Too many calls by the app", _TRY_LATER, _WAIT, Effect.SLOW_DOWN, _MINUTE),
    MetaError(10, "Permission denied", _REPAIR_ACCESS, _HOLD, Effect.STOP_ACCOUNT),
    MetaError(33, "The phone number id is unknown or deleted", _REPAIR_ACCESS, _HOLD, Effect.STOP_ACCOUNT),
    MetaError(100, "Invalid parameter", _FIX_MESSAGE),
    MetaError(104, "Incorrect app secret proof", _REPAIR_ACCESS, _HOLD, Effect.STOP_ACCOUNT),
    MetaError(190, "The access token is expired or invalid", _REPAIR_ACCESS, _HOLD, Effect.STOP_ACCOUNT),
    MetaError(192, "Invalid phone number", "Check the phone number and send a new message."),
    MetaError(
        368,
        "Temporarily blocked for policy violations",
        "Meta restricts this account: see the account quality page in WhatsApp Manager.",
        _HOLD,
        Effect.POLICY_BLOCK,
        _DAY,
    ),
    MetaError(506, "Duplicate post", "Meta saw the same request already: check before you send again."),
    MetaError(613, "Calls exceeded the rate limit", _TRY_LATER, _WAIT, Effect.SLOW_DOWN, _MINUTE),
    # Limits of management calls: the number itself is not too fast.
    MetaError(80007, "Rate limit of the business account reached", _TRY_LATER, _WAIT, wait_seconds=_MINUTE),
    MetaError(80008, "Too many calls to this business account", _TRY_LATER, _WAIT, wait_seconds=_MINUTE),
    # Recipients and accounts
    MetaError(
        130403,
        "The business has blocked this person",
        "Unblock the person before writing to them.",
        effect=Effect.COOL_CONTACT,
        wait_seconds=30 * _DAY,
    ),
    MetaError(130429, "Throughput limit of the number reached", _TRY_LATER, _WAIT, Effect.SLOW_DOWN, 5),
    MetaError(
        130472,
        "This person is part of an experiment of Meta's",
        "Meta withholds marketing from this person, however often it is sent: let them write first.",
        effect=Effect.COOL_CONTACT,
        wait_seconds=30 * _DAY,
    ),
    # TODO: pause the destination country, not only this message.
    MetaError(
        130497,
        "This account may not message people in that country",
        "Meta does not allow it for this business.",
    ),
    MetaError(131000, "Something went wrong at Meta", _TRY_LATER, _RETRY, attempts=3),
    MetaError(131005, "Access denied", _REPAIR_ACCESS, _HOLD, Effect.STOP_ACCOUNT),
    MetaError(131008, "A required parameter is missing", _FIX_MESSAGE),
    MetaError(131009, "A parameter has an invalid value", _FIX_MESSAGE),
    MetaError(131016, "Meta's service is unavailable", _TRY_LATER, _RETRY, attempts=5),
    MetaError(131020, "Group error", _OUT_OF_SCOPE),
    MetaError(131021, "The recipient is the sender itself", "Choose another recipient."),
    MetaError(
        131026,
        "Message undeliverable",
        "The person may not use WhatsApp, may not have accepted its terms or may use an old version.",
        effect=Effect.COOL_CONTACT,
        wait_seconds=30 * _DAY,
    ),
    MetaError(
        131030,
        "The recipient is not in the allowed list",
        "A test number only reaches listed recipients: add the number in the form Meta shows for it.",
    ),
    MetaError(
        131031,
        "The account is locked or restricted",
        "See the account quality page in WhatsApp Manager; a wrong two-step PIN gives this error too.",
        _HOLD,
        Effect.PAUSE_ACCOUNT,
    ),
    MetaError(
        131037,
        "The display name is not approved",
        "Get the display name of this number approved in WhatsApp Manager.",
        _HOLD,
        Effect.PAUSE_ACCOUNT,
    ),
    MetaError(131041, "Group error", _OUT_OF_SCOPE),
    MetaError(
        131042,
        "Payment issue of the business account",
        "Check the payment method, credit line, currency and time zone in WhatsApp Manager.",
        _HOLD,
        Effect.PAUSE_ACCOUNT,
    ),
    MetaError(131043, "The message expired before delivery", "Send a new message if it still matters."),
    MetaError(131044, "Payment issue for calls", _OUT_OF_SCOPE),
    MetaError(131045, "The number is not registered correctly", _REGISTER, _HOLD, Effect.STOP_ACCOUNT),
    MetaError(
        131047,
        "More than 24 hours since the person last wrote",
        "Send an approved template: only a template may reopen the conversation.",
        effect=Effect.CLOSE_WINDOW,
    ),
    MetaError(
        131048,
        "Too many messages of this number were blocked or reported",
        "Meta limits this number for spam: check its quality in WhatsApp Manager; replies go on meanwhile.",
        _HOLD,
        Effect.PAUSE_TEMPLATES,
        _DAY,
    ),
    MetaError(
        131049,
        "Meta did not deliver it to keep engagement healthy",
        "This person gets enough marketing already: wait at least 24 hours, sooner tries make it worse.",
        effect=Effect.COOL_CONTACT,
        wait_seconds=_DAY,
    ),
    MetaError(
        131050,
        "The person stopped marketing messages",
        "Send them no marketing until they resume it themselves.",
        effect=Effect.OPT_OUT,
    ),
    MetaError(131051, "Unsupported message type", "WhatsApp does not pass this type of message to businesses."),
    MetaError(131052, "The media of an inbound message could not be fetched", _INBOUND),
    # The host of a link may have been away for a moment: once more, no more.
    MetaError(
        131053, "The media could not be used", "Check the link, type, size and codec of the file.", _RETRY, attempts=2
    ),
    MetaError(131055, "Method not allowed", _FIX_MESSAGE),
    MetaError(131056, "Too many messages to this person", _TRY_LATER, _WAIT, Effect.PAIR_WAIT, 1),
    MetaError(131057, "The account is in maintenance", _TRY_LATER, _WAIT, Effect.PAUSE_ACCOUNT, _MINUTE),
    MetaError(131059, "Group error", _OUT_OF_SCOPE),
    MetaError(131060, "The message is unavailable", _INBOUND),
    MetaError(
        131061,
        "This template must go through the Marketing Messages API",
        "Remove the maximum price from the template, or use another one.",
        effect=Effect.PAUSE_TEMPLATE,
    ),
    MetaError(
        131062,
        "This message needs a phone number",
        "Address the person by phone: Meta refuses a user id here.",
    ),
    MetaError(
        131063,
        "Marketing templates are switched off for the Cloud API",
        "Allow marketing on the Cloud API in the settings of the WhatsApp business account.",
        _HOLD,
        Effect.PAUSE_TEMPLATE,
    ),
    MetaError(
        131064,
        "Limited because templates were given the wrong category",
        "Meta lifts this by itself; check the categories of your templates.",
        _HOLD,
        Effect.PAUSE_TEMPLATES,
        _DAY,
    ),
    MetaError(131065, "No maximum price in the person's country", _OUT_OF_SCOPE),
    MetaError(
        131070,
        "Another app owns this conversation",
        "Take the conversation over at Meta, or send a template.",
    ),
    # Templates
    MetaError(132000, "The number of template parameters is wrong", _FIX_PARAMETERS, effect=Effect.REFRESH_TEMPLATE),
    MetaError(
        132001,
        "The template does not exist in this language or is not approved",
        "Check name, language and approval of the template.",
        _HOLD,
        Effect.REFRESH_TEMPLATE,
        # Longer than cron's templates-sync takes to come round: a sync has the word before the next try.
        wait_seconds=20 * _MINUTE,
        attempts=3,
    ),
    MetaError(
        132005,
        "The text is too long once the parameters are filled in",
        "Shorten the parameters and send again.",
    ),
    MetaError(132007, "The template breaks Meta's format policy", _FIX_TEMPLATE, effect=Effect.REFRESH_TEMPLATE),
    MetaError(132008, "A template parameter has an invalid value", _FIX_PARAMETERS),
    MetaError(132012, "A template parameter has the wrong format", _FIX_PARAMETERS, effect=Effect.REFRESH_TEMPLATE),
    MetaError(
        132015,
        "The template is paused for low quality",
        "Meta resumes it after 3 or 6 hours; improve it before it is disabled for good.",
        _HOLD,
        Effect.PAUSE_TEMPLATE,
        3 * _HOUR,
    ),
    MetaError(
        132016,
        "The template is disabled for good",
        "Meta disabled it for low quality: make a new template.",
        effect=Effect.DISABLE_TEMPLATE,
    ),
    MetaError(
        132018,
        "A template parameter is not allowed",
        "No line breaks, tabs or more than 4 spaces in parameters.",
        effect=Effect.REFRESH_TEMPLATE,
    ),
    MetaError(
        132068,
        "The flow of the template is blocked",
        "Repair the flow at Meta.",
        _HOLD,
        Effect.PAUSE_TEMPLATE,
    ),
    MetaError(132069, "The flow of the template is throttled", _TRY_LATER, _WAIT, Effect.REST_TEMPLATE, _HOUR),
    # Registration of the number
    MetaError(133000, "A former deregistration is incomplete", _REGISTER, _HOLD, Effect.STOP_ACCOUNT),
    MetaError(133004, "Meta's server is temporarily unavailable", _TRY_LATER, _RETRY, attempts=5),
    MetaError(133005, "The two-step PIN is wrong", _REGISTER, _HOLD, Effect.STOP_ACCOUNT),
    MetaError(133006, "The number must be verified again", _REGISTER, _HOLD, Effect.STOP_ACCOUNT),
    MetaError(133008, "Too many guesses of the two-step PIN", _REGISTER, _HOLD, Effect.STOP_ACCOUNT),
    MetaError(133009, "The two-step PIN was guessed too fast", _REGISTER, _HOLD, Effect.STOP_ACCOUNT),
    MetaError(133010, "The number is not registered", _REGISTER, _HOLD, Effect.STOP_ACCOUNT),
    MetaError(133015, "The number was deleted a moment ago", _TRY_LATER, _WAIT, Effect.PAUSE_ACCOUNT, 5 * _MINUTE),
    MetaError(133016, "Too many registrations of the number", _REGISTER, _HOLD, Effect.STOP_ACCOUNT),
    # Neighbour APIs and administration
    MetaError(134011, "The terms of WhatsApp Payments are not accepted", _OUT_OF_SCOPE),
    MetaError(134100, "Only marketing templates are supported here", _OUT_OF_SCOPE),
    MetaError(134101, "The template is still syncing", _TRY_LATER, _WAIT, wait_seconds=10 * _MINUTE),
    MetaError(134102, "The template is unavailable", "Use another template.", effect=Effect.PAUSE_TEMPLATE),
    MetaError(134103, "Error of the Marketing Messages API", _OUT_OF_SCOPE),
    MetaError(135000, "Generic user error", _FIX_MESSAGE),
    MetaError(136024, "The number is verified already", "Nothing to do."),
    MetaError(
        137000,
        "The person's identity changed",
        "Somebody else may use this number now: verify the person before you write again.",
    ),
    MetaError(139100, "Some people could not be blocked", _OUT_OF_SCOPE),
    MetaError(139101, "The block list is full", _OUT_OF_SCOPE),
    MetaError(139102, "The block list is being changed", _TRY_LATER, _RETRY, attempts=3),
    MetaError(139103, "Internal error of the block list", _TRY_LATER, _RETRY, attempts=3),
    MetaError(141000, "Found by Meta's health check", _HEALTH),
    MetaError(141006, "Found by Meta's health check", _HEALTH),
    MetaError(141010, "Found by Meta's health check", _HEALTH),
    MetaError(200002, "The template could not be created", _FIX_TEMPLATE),
    MetaError(1752041, "The business was asked to join the Marketing Messages API already", _OUT_OF_SCOPE),
    MetaError(
        2388001,
        "The number cannot be migrated yet",
        "Confirm who owns the number, and switch its two-step verification off, before you migrate it.",
    ),
    MetaError(2388012, "The number exists already", _OUT_OF_SCOPE),
    MetaError(2388019, "Too many templates", "Delete templates you no longer use."),
    MetaError(2388039, "The template could not be created", _FIX_TEMPLATE),
    MetaError(2388040, "A field of the template is too long", _FIX_TEMPLATE),
    MetaError(2388047, "The header of the template is malformed", _FIX_TEMPLATE),
    MetaError(2388072, "The body of the template is malformed", _FIX_TEMPLATE),
    MetaError(2388073, "The footer of the template is malformed", _FIX_TEMPLATE),
    MetaError(2388091, "The number may not get a registration code", _OUT_OF_SCOPE),
    MetaError(2388093, "The number may not get a registration code", _OUT_OF_SCOPE),
    MetaError(2388103, "The number cannot be migrated", _OUT_OF_SCOPE),
    MetaError(2388293, "Too many parameters for so short a text", _FIX_TEMPLATE),
    MetaError(2388299, "A template may not begin or end with a parameter", _FIX_TEMPLATE),
    MetaError(2494100, "The number is in maintenance", _TRY_LATER, _WAIT, Effect.PAUSE_ACCOUNT, 5 * _MINUTE),
    MetaError(2494191, "Only an escalation app may take the conversation", _OUT_OF_SCOPE),
    MetaError(2593079, "The business account is being moved to another solution already", _OUT_OF_SCOPE),
    MetaError(2593085, "The business account cannot be moved to another owner", _OUT_OF_SCOPE),
    MetaError(2593107, "Too many coexistence syncs", _OUT_OF_SCOPE),
    MetaError(2593108, "Outside the coexistence onboarding window", _OUT_OF_SCOPE),
    MetaError(2593109, "The history was not shared", _OUT_OF_SCOPE),
)

TABLE: dict[int, MetaError] = {row.code: row for row in _ROWS if row.code is not None}
SUBCODES: dict[tuple[int, int], MetaError] = {
    # "Object with ID … does not exist, cannot be loaded due to missing permissions": nothing is wrong with the message.
    (100, 33): MetaError(
        100, "The number is unknown to Meta, or not open to this token", _REPAIR_ACCESS, _HOLD, Effect.STOP_ACCOUNT
    ),
}
"""Where the subcode tells more than the code. Meta calls subcodes deprecated and still sends this one."""

RANGES: tuple[tuple[range, MetaError], ...] = (
    (
        range(200, 300),
        MetaError(None, "An API permission is missing or was removed", _REPAIR_ACCESS, _HOLD, Effect.STOP_ACCOUNT),
    ),
    # TODO: the Calling API is not implemented.
    (range(138000, 138019), MetaError(None, "Calling API error", _OUT_OF_SCOPE)),
    (range(139000, 139005), MetaError(None, "Flow management error", _OUT_OF_SCOPE)),
    (range(131201, 131216), MetaError(None, "Group error", _OUT_OF_SCOPE)),
    (range(147001, 147006), MetaError(None, "Business username error", _OUT_OF_SCOPE)),
    (range(200005, 200008), MetaError(None, "Template insights error", _OUT_OF_SCOPE)),
    (range(2494164, 2494180), MetaError(None, "Sign-up error", _OUT_OF_SCOPE)),
)


_UNKNOWN = "Meta reported an error this product does not know: see Meta's error codes for its meaning."


def lookup(
    code: int | None, *, subcode: int | None = None, transient: bool = False, throttled: bool = False
) -> MetaError:
    """The row for a code. An unknown one (`known` is false) is permanent, unless Meta called it transient, or
    answered it with the status of a throttled call."""
    if code is not None:
        if subcode is not None and (code, subcode) in SUBCODES:
            return SUBCODES[code, subcode]
        if code in TABLE:
            return TABLE[code]
        for codes, row in RANGES:
            if code in codes:
                return replace(row, code=code)
    if throttled:
        return MetaError(code, "Too many calls", _TRY_LATER, _WAIT, Effect.SLOW_DOWN, _MINUTE, known=False)
    if transient:
        return MetaError(code, "Unknown temporary error", _TRY_LATER, _RETRY, attempts=3, known=False)
    return MetaError(code, "Unknown error", _UNKNOWN, known=False)


_THROTTLED = 429


def from_graph(error: object, status: int | None = None) -> Failure:
    """Explain the `error` of a Graph answer (or the whole answer around it). Any garbage gives a Failure.

    The HTTP status has a word only where the code has none: Graph throttles with 429 and codes of its own.
    """
    fields = error if isinstance(error, dict) else {}
    if isinstance(fields.get("error"), dict):
        fields = fields["error"]
    entry = lookup(
        code_of(fields),
        subcode=_number(fields.get("error_subcode")),
        transient=fields.get("is_transient") is True,
        throttled=status == _THROTTLED,
    )
    return _failure(fields, entry)


def from_webhook(error: object) -> Failure:
    """Explain one of the `errors` of a status, message or value. Any garbage gives a Failure."""
    fields = error if isinstance(error, dict) else {}
    return _failure(fields, lookup(code_of(fields)))


def _failure(fields: _Fields, entry: MetaError) -> Failure:
    title = entry.title
    if not entry.known:
        title = _words(fields.get("title")) or _words(fields.get("message")) or title
    trace = fields.get("fbtrace_id")
    return Failure(entry.code, title, _details(fields), _trace(trace), entry)


_DIGITS = re.compile(r"-?[0-9]{1,9}")


def code_of(fields: _Fields) -> int | None:
    """The code of an error object. Meta writes numbers; some of its gateways write them as text."""
    return _number(fields.get("code"))


def _number(value: object) -> int | None:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1_000_000_000:
        return value
    return None


def _details(fields: _Fields) -> str | None:
    """Meta's own words, the most telling first. `error_data` is a plain string on some Graph nodes."""
    data = fields.get("error_data")
    if isinstance(data, dict):
        data = data.get("details")
    words_of = ("details", "error_user_msg", "message", "title")  # `details` by itself is how older webhooks say it
    for text in (data, *map(fields.get, words_of)):
        words = _words(text)
        if words:
            return words
    return None


_CODE_PREFIX = re.compile(r"^\(#[0-9]+\)\s*")
_SECRETS = re.compile(r"\bEAA[0-9A-Za-z]{8,}|(?<=token )[^\s'\".,]{16,}|\+[0-9](?:[ ().-]{0,2}[0-9]){6,}|[0-9]{7,}")
_LONGEST = 1_000


def _words(text: object) -> str | None:
    """Text fit for logs, database and user: no token, phone number, id or character Postgres refuses."""
    if not isinstance(text, str):
        return None
    text = _CODE_PREFIX.sub("", text[:_LONGEST].replace("\0", ""))
    text = _SECRETS.sub("…", text).encode("utf-8", "replace").decode()
    return text.strip() or None


_TRACE = re.compile(r"[\w-]{1,64}", re.ASCII)


def _trace(value: object) -> str | None:
    return value if isinstance(value, str) and _TRACE.fullmatch(value) else None
