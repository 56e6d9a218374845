"""Signing webhooks as Meta does, in the stand-in for Meta (tests only)."""

import hmac


def signature(app_secret: str, body: bytes) -> str:
    """Value of `X-Hub-Signature-256`: HMAC-SHA256 over the raw body bytes with the app secret, lower-case
    hex."""
    return "sha256=" + hmac.digest(app_secret.encode(), body, "sha256").hex()
