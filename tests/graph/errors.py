"""Meta's error answers, spoken by the stand-in for Meta (tests only).

Shapes: Meta, support/error-codes. HTTP statuses follow older copies of that page; Meta no longer documents
them, so no client should branch on them.
"""

import secrets
from typing import Any

import orjson

TITLES: dict[int, tuple[int, str]] = {
    0: (401, "AuthException"),
    1: (400, "API Unknown"),
    2: (503, "API Service"),
    3: (500, "API Method"),
    4: (400, "API Too Many Calls"),
    10: (403, "Permission Denied"),
    33: (400, "Parameter value is not valid"),
    100: (400, "Invalid parameter"),
    190: (401, "Access token has expired"),
    200: (403, "API Permission"),
    368: (403, "Temporarily blocked for policies violations"),
    80007: (400, "Rate limit issues"),
    130429: (400, "Rate limit hit"),
    130472: (400, "User's number is part of an experiment"),
    130497: (403, "Business account is restricted from messaging users in this country"),
    131000: (500, "Something went wrong"),
    131005: (403, "Access denied"),
    131008: (400, "Required parameter is missing"),
    131009: (400, "Parameter value is not valid"),
    131016: (503, "Service unavailable"),
    131021: (400, "Recipient cannot be sender"),
    131026: (400, "Message undeliverable"),
    131031: (403, "Account has been locked"),
    131037: (400, "Display name approval needed"),
    131042: (400, "Business eligibility payment issue"),
    131047: (400, "Re-engagement message"),
    131048: (400, "Spam rate limit hit"),
    131049: (400, "This message was not delivered to maintain healthy ecosystem engagement"),
    131050: (400, "User has stopped receipt of marketing messages from this business"),
    131051: (400, "Unsupported message type"),
    131053: (400, "Media upload error"),
    131056: (400, "(Business Account, Consumer Account) pair rate limit hit"),
    131057: (500, "Account in maintenance mode"),
    131062: (400, "Business-scoped user id recipients are not supported for this message"),
    131063: (400, "Marketing templates are disabled for Cloud API"),
    131064: (400, "Messaging limit reached because of template classification violations"),
    132000: (400, "Number of parameters does not match the expected number of params"),
    132001: (404, "Template name does not exist in the translation"),
    132005: (400, "Translated text too long"),
    132007: (400, "Template content violates policy"),
    132012: (400, "Parameter format does not match format in the created template"),
    132015: (400, "Template is paused"),
    132016: (400, "Template is disabled"),
    132018: (400, "There is an issue with template parameters"),
    133004: (503, "Server is temporarily unavailable"),
    133010: (400, "Phone number not registered"),
    135000: (400, "Generic user error"),
    137000: (400, "Recipient identity key hash mismatch"),
}
HREF = "https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes"


class Refused(Exception):
    """Meta says no. `details` is what Meta puts into `error_data.details`."""

    def __init__(self, code: int, details: str = "", *, http_status: int | None = None, subcode: int | None = None):
        super().__init__(f"{code}: {details}")
        self.code = code
        self.details = details
        self.http_status = http_status or TITLES.get(code, (400, ""))[0]
        self.subcode = subcode

    def body(self) -> bytes:
        """The JSON answer. Graph-wide errors carry their words in `message` and no `error_data`."""
        error: dict[str, Any] = {"message": self._message(), "type": "OAuthException", "code": self.code}
        if self.subcode is not None:
            error |= {"type": "GraphMethodException", "error_subcode": self.subcode}
        if self.code >= 1000:
            error["error_data"] = {"messaging_product": "whatsapp", "details": self.details}
        error["fbtrace_id"] = "A" + secrets.token_urlsafe(16)
        return orjson.dumps({"error": error})

    def _message(self) -> str:
        words = TITLES.get(self.code, (400, "Unknown error"))[1]
        if self.code < 1000 and self.details:
            words = self.details
        return words if self.code == 190 or self.subcode is not None else f"(#{self.code}) {words}"


def invalid_token() -> Refused:
    return Refused(190, "Invalid OAuth access token - Cannot parse access token")


def unknown_object(node_id: str, method: str) -> Refused:
    """What Graph says of an id that does not exist, or that the token may not see: it does not tell which."""
    why = "does not exist, cannot be loaded due to missing permissions, or does not support this operation"
    return Refused(100, f"Unsupported {method} request. Object with ID '{node_id}' {why}.", subcode=33)


def webhook_error(code: int, details: str = "") -> dict[str, Any]:
    """An entry of `statuses[].errors[]`."""
    title = TITLES.get(code, (400, "Unknown error"))[1]
    error_data = {"details": details or title}
    return {"code": code, "title": title, "message": title, "error_data": error_data, "href": HREF}
