"""Our own refusal codes: one table says what each means, which HTTP status it has and what the caller can do.

Meta's errors live in `meta.errors`; a code here is ours and stable. Callers may switch on `code`, never on
`message`. Pure: no I/O, no clock, no environment.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """One row of the table: a stable code and what a person or program needs to act on it.

    `status` is the HTTP status of an answer that consists of this refusal alone. A status below 400 marks a
    notice: the message was taken, and waits. `message` may hold placeholders, `{field}` being filled by
    itself.
    """

    code: str
    status: int
    message: str
    remedy: str

    @property
    def is_notice(self) -> bool:
        """True where nothing was refused: the message was stored and waits for what `remedy` names."""
        return self.status < 400


class RefusalError(Exception):
    """A request or message we will not carry out. Its `body()` is the error body of every function.

    `field` is the path of the offending input (`template.parameters[0]`), `reason` what is wrong with it.
    Neither may hold a secret: both are shown to the caller.
    """

    def __init__(self, refusal: Refusal, message: str, field: str | None, reason: str | None) -> None:
        super().__init__(refusal.code)
        self.code = refusal.code
        self.status = refusal.status
        self.message = message
        self.field = field
        self.reason = reason
        self.remedy = refusal.remedy

    def body(self) -> dict[str, str | None]:
        """The error body: PostgREST's four keys, and `error` for clients that read nothing else
        (supabase-py).
        """
        return {
            "code": self.code,
            "message": self.message,
            "details": ": ".join(part for part in (self.field, self.reason) if part) or None,
            "hint": self.remedy,
            "error": self.message,
        }


def refuse(code: str, *, field: str | None = None, reason: str | None = None, **names: object) -> RefusalError:
    """The exception to raise for `code`; `names` fill the placeholders of its message.

    Raises KeyError for an unknown code, ValueError for a notice and TypeError for a missing placeholder: each
    is a mistake of ours, found by the first test that walks the path.
    """
    refusal = _BY_CODE[code]
    if refusal.is_notice:
        raise ValueError(f"{code} is a notice: nothing is refused")
    values = {"field": field or "the request body", **names}
    try:
        message = refusal.message.format_map(values)
    except KeyError as missing:
        raise TypeError(f"refuse({code!r}) needs {missing.args[0]}") from None
    return RefusalError(refusal, message, field, reason)


def describe(code: str) -> Refusal | None:
    """The row of `code`, or None if it is not ours: verdicts of the database arrive as bare codes."""
    return _BY_CODE.get(code)


def table() -> tuple[Refusal, ...]:
    """Every code, in the order of the documentation."""
    return _TABLE


def as_markdown() -> str:
    """The table as docs/whatsapp.md shows it, between its `refusals:begin` and `refusals:end` markers."""
    rows = [f"| `{r.code}` | {r.status} | {r.message} | {r.remedy} |" for r in _TABLE]
    return "\n".join(["| Code | HTTP | Message | What to do |", "|---|---|---|---|", *rows])


_TABLE = (
    # The request as such
    Refusal(
        "invalid_request",
        400,
        "The request could not be understood.",
        "Send JSON as the documentation shows.",
    ),
    Refusal(
        "malformed_json",
        400,
        "The request body is not valid JSON.",
        "Send one JSON object, encoded as UTF-8.",
    ),
    Refusal(
        "body_not_object",
        400,
        "The request body must be a JSON object.",
        "Wrap the values in one object: {…}.",
    ),
    Refusal(
        "body_too_large",
        413,
        "The request body is larger than {limit} bytes.",
        "Send less at a time: split a campaign over several calls.",
    ),
    Refusal(
        "body_too_complex",
        413,
        "The request body holds too many values, or nests them too deeply.",
        "Send less at a time, as details says.",
    ),
    Refusal("body_too_slow", 408, "The request body did not arrive in time.", "Repeat the call with the same key."),
    Refusal(
        "too_many_bodies",
        503,
        "Too many large calls are being worked on.",
        "Repeat the call with the same key, after the seconds that Retry-After names.",
    ),
    Refusal(
        "too_many_polls",
        429,
        "You have {limit} calls of this kind under way, or everybody together has too many.",
        "Wait for the answers to some of them; one call may ask for 100 messages.",
    ),
    Refusal("not_found", 404, "There is no function at this address.", "Check the function's name in the URL."),
    Refusal(
        "method_not_allowed",
        405,
        "The method {method} is not allowed here.",
        "Use one of the methods of the Allow header.",
    ),
    # Its fields
    Refusal("missing_field", 422, "A required field is missing: {field}.", "Add the field."),
    Refusal(
        "invalid_field",
        422,
        "A field has a wrong type or value: {field}.",
        "Correct the field as details says.",
    ),
    Refusal("unknown_field", 422, "There is no such field: {field}.", "Remove the field, or correct its spelling."),
    Refusal(
        "invalid_phone",
        422,
        "This is not a possible phone number.",
        "Give it in E.164: a plus, the country calling code, the number, digits only.",
    ),
    Refusal(
        "invalid_bsuid",
        422,
        "This is not a business-scoped user id.",
        "Give the id as Meta sent it: two letters, a dot, letters and digits.",
    ),
    Refusal("invalid_contact_id", 422, "This is not a contact id.", "Give the UUID of a contact of this country."),
    Refusal(
        "invalid_recipient",
        422,
        "The recipient cannot be read.",
        "Give a phone number in E.164, or an object with exactly one of bsuid and contact_id.",
    ),
    Refusal(
        "invalid_send_at",
        422,
        "The time to send at cannot be used.",
        "Give an ISO 8601 time with its offset from UTC.",
    ),
    Refusal(
        "invalid_cursor",
        422,
        "The cursor cannot be read.",
        "Give the cursor of an earlier answer, unchanged.",
    ),
    Refusal("invalid_csv", 422, "The CSV cannot be read.", "Send UTF-8 with a header row, as details says."),
    Refusal(
        "too_many_recipients",
        422,
        "One call carries at most {limit} recipients.",
        "Split them over several calls; those of a campaign are appended to it.",
    ),
    Refusal(
        "consent_in_future",
        422,
        "The time of the consent is in the future.",
        "Give the time at which the person said it, or leave it out for now.",
    ),
    Refusal(
        "invalid_item",
        422,
        "This cannot be stored as it is.",
        "Correct it; whatever was sent together with it is not concerned.",
    ),
    Refusal("duplicate_recipient", 422, "The recipient is in this campaign already.", "Remove the repeated row."),
    # The message
    Refusal("invalid_message", 422, "The message does not follow Meta's contract.", "Correct it as details says."),
    Refusal(
        "message_type_not_implemented",
        422,
        "Messages of type {type} are not implemented.",
        "Use another type; docs/whatsapp.md lists what is implemented.",
    ),
    Refusal(
        "message_type_unknown",
        422,
        "Meta knows no message type {type}.",
        "Use a type of Meta's message object, such as text or template.",
    ),
    Refusal(
        "bulk_needs_template",
        422,
        "Bulk messages are sent by approved template only.",
        "Name a template and its language; free-form messages go one by one through send.",
    ),
    Refusal(
        "template_parameters",
        422,
        "The parameters do not fit the template's contract.",
        "Give exactly the parameters that the template declares, as details says.",
    ),
    # Idempotency
    Refusal(
        "idempotency_key_missing",
        400,
        "The Idempotency-Key header is missing.",
        "Send a new key for each new message, and the same key when repeating a call.",
    ),
    Refusal(
        "idempotency_key_invalid",
        400,
        "The Idempotency-Key header cannot be used.",
        "Use 1 to 200 printable ASCII characters, such as a UUID.",
    ),
    Refusal(
        "idempotency_key_reused",
        422,
        "This Idempotency-Key was used with another request body.",
        "Use a new key for a new message; repeat a call with its body unchanged.",
    ),
    # Whom it concerns
    Refusal(
        "unknown_country",
        404,
        "No account is set up for this country.",
        "Check country_id: two capital letters.",
    ),
    Refusal("no_such_account", 404, "This country has no such account.", "Check the account's name."),
    Refusal(
        "no_default_account",
        404,
        "This country has no default account.",
        "Name the account, or mark one account of the country as its default.",
    ),
    Refusal("unknown_contact", 404, "This country has no such contact.", "Check contact_id and country_id."),
    Refusal(
        "unknown_campaign",
        404,
        "There is no such campaign.",
        "Check campaign_id, and your access to its country.",
    ),
    # The gates
    Refusal("account_disabled", 409, "The account is disabled.", "Enable the account, or use another one."),
    Refusal(
        "account_stopped",
        409,
        "The account is stopped after an error of Meta's.",
        "Clear the cause that the account's record names, then start the account again.",
    ),
    Refusal(
        "account_without_credentials",
        202,
        "The account has no credentials in this environment; the message waits.",
        "Set the account's WHATSAPP_… variables where the functions run.",
    ),
    Refusal(
        "opted_out",
        409,
        "The person does not want these messages.",
        "Do not send. Only the person can opt in again.",
    ),
    Refusal(
        "not_opted_in",
        409,
        "The person has not opted in to marketing.",
        "Record the person's consent before sending marketing.",
    ),
    Refusal(
        "contact_cooling",
        409,
        "Meta holds back marketing to this person for now.",
        "Wait, let them write first, or send what is not marketing.",
    ),
    Refusal(
        "window_closed",
        409,
        "The 24-hour window is closed: the person has not written lately.",
        "Send an approved template, or wait until the person writes.",
    ),
    Refusal(
        "template_unknown",
        409,
        "The account has no such template.",
        "Check name and language, then sync templates.",
    ),
    Refusal(
        "template_not_approved",
        409,
        "Meta has not approved the template.",
        "Wait for approval, then sync templates.",
    ),
    Refusal(
        "template_paused",
        409,
        "Meta has paused the template.",
        "Use another template, or wait until Meta ends the pause.",
    ),
    Refusal(
        "message_expired",
        409,
        "The message expired before it could be sent.",
        "Send it again if it is still wanted.",
    ),
    Refusal("campaign_over", 409, "The campaign is finished or cancelled.", "Start a new campaign."),
    Refusal(
        "outcome_unknown",
        504,
        "Meta never said whether the message was sent, so it is not repeated.",
        "Ask the person, or decide to send a new message.",
    ),
    # Who calls
    Refusal(
        "missing_credentials",
        401,
        "Credentials are missing.",
        "Sign in and send the user's token as a Bearer, or send a secret key in the apikey header.",
    ),
    Refusal("invalid_token", 401, "The token is not valid.", "Sign in again."),
    Refusal("token_expired", 401, "The token has expired.", "Refresh the session, then repeat the call."),
    Refusal(
        "unsupported_token",
        401,
        "This kind of token is not accepted.",
        "Send the access token of a signed-in user of this project.",
    ),
    Refusal(
        "invalid_api_key",
        401,
        "The API key is not accepted here.",
        "Send a current secret key from a server, never from a browser, in the apikey header.",
    ),
    Refusal(
        "not_a_member",
        403,
        "You are not a member of this country.",
        "Ask an admin of the country for access.",
    ),
    Refusal(
        "role_too_low",
        403,
        "Your role does not allow this.",
        "Ask an admin of the country for a higher role.",
    ),
    # The webhook
    Refusal(
        "signature_missing",
        401,
        "The X-Hub-Signature-256 header is missing.",
        "Only Meta calls this function: check the app's webhook settings.",
    ),
    Refusal(
        "signature_invalid",
        401,
        "The signature does not fit the body.",
        "Check that WHATSAPP_APP_SECRET is the secret of the app that Meta calls for.",
    ),
    Refusal(
        "webhook_not_configured",
        503,
        "The webhook is not configured, so nothing is accepted.",
        "Set WHATSAPP_APP_SECRET and WHATSAPP_VERIFY_TOKEN; Meta delivers again.",
    ),
    Refusal(
        "verify_token_mismatch",
        403,
        "The verify token is wrong.",
        "Enter the value of WHATSAPP_VERIFY_TOKEN in the app's webhook settings.",
    ),
    Refusal(
        "webhook_overloaded",
        503,
        "Too many events are waiting to be stored.",
        "Nothing to do: Meta delivers again.",
    ),
    # Us
    Refusal("database_unavailable", 503, "The database cannot be reached.", "Repeat the call with the same key."),
    Refusal("database_timeout", 503, "The database took too long.", "Repeat the call with the same key."),
    Refusal(
        "schema_missing",
        503,
        "The database does not show the schema whatsapp in the Data API.",
        "Apply the migrations (supabase db push), and add whatsapp to the exposed schemas.",
    ),
    Refusal(
        "schema_outdated",
        503,
        "The schema of the database is version {version}, and this code needs {needed}.",
        "Apply the migrations: supabase db push.",
    ),
    Refusal(
        "signing_keys_unavailable",
        503,
        "The keys that prove tokens cannot be fetched.",
        "Repeat the call later.",
    ),
    Refusal(
        "configuration_error",
        500,
        "The functions are not configured completely.",
        "An operator finds the variable's name in the log, under the request that details names.",
    ),
    Refusal(
        "internal_error",
        500,
        "Something went wrong on our side.",
        "Repeat the call with the same key; if it fails again, report the request that details names.",
    ),
)

_BY_CODE = {refusal.code: refusal for refusal in _TABLE}
