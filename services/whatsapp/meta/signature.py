"""The signature of Meta's webhooks: `X-Hub-Signature-256`, HMAC-SHA256 over the raw bytes, key = app secret.

Meta signs the bytes on the wire, escapes included (webhooks/create-webhook-endpoint): parsing and writing the
JSON again changes them, so verify before parsing.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence

_SCHEME = "sha256="
_SHAPE = re.compile(r"sha256=[0-9a-f]{64}")


def sign(secret: str, body: bytes) -> str:
    """The header value for a body, "sha256=" and 64 lower-case hex digits."""
    return _SCHEME + hmac.digest(secret.encode(), body, hashlib.sha256).hex()


def is_one(header: str) -> bool:
    """Whether the header could be a signature at all: what could not need no body read."""
    return _SHAPE.fullmatch(header) is not None


def verify(secrets: Sequence[str], header: str | None, body: bytes) -> bool:
    """Whether any app secret in rotation signed exactly these bytes. False without a secret or header."""
    if header is None:
        return False
    given = header.encode("utf-8", "replace")  # compare_digest refuses non-ASCII text
    matches = [hmac.compare_digest(sign(secret, body).encode(), given) for secret in secrets if secret]
    return any(matches)
