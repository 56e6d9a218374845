"""The project's public signing keys, fetched from Supabase Auth and kept for ten minutes.

Auth's own cache holds them that long, and rotation asks for twenty minutes between adding a key and using it.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from services.whatsapp import log
from services.whatsapp.refusals import refuse

if TYPE_CHECKING:
    from jwt import PyJWK

LIFETIME = 600.0
"""Seconds keys are believed: a revoked key must not outlive them."""
REFETCH_INTERVAL = 30.0
"""Seconds between fetches for unknown key ids, which anybody can make up."""
RETRY_INTERVAL = 5.0
"""Seconds between attempts while Auth does not answer."""

_FETCH_TIMEOUT = 5.0
_LARGEST_ANSWER = 64 * 1024

_log = log.get("jwks")


class JwksCache:
    """Keys by key id, from `url`. `clock` gives seconds that only grow."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._keys: dict[str, PyJWK] | None = None
        self._fetched_at = 0.0
        self._attempted_at = float("-inf")

    async def find(self, key_id: str, fetching: asyncio.Lock) -> "PyJWK | None":
        """The key called `key_id`; None if the project has no such key. `fetching` is held by one caller of a loop.

        Refuses `signing_keys_unavailable`.
        """
        found = self._fresh().get(key_id)
        if found is None:
            async with fetching:
                # Somebody else may have fetched while we waited for the lock.
                found = self._fresh().get(key_id)
                if found is None and self._may_fetch():
                    await self._fetch()
                    found = self._fresh().get(key_id)
        if found is None and not self._is_fresh():
            raise refuse("signing_keys_unavailable")
        return found

    def _is_fresh(self) -> bool:
        return self._keys is not None and self._clock() - self._fetched_at < LIFETIME

    def _fresh(self) -> "dict[str, PyJWK]":
        return self._keys if self._keys is not None and self._is_fresh() else {}

    def _may_fetch(self) -> bool:
        interval = REFETCH_INTERVAL if self._is_fresh() else RETRY_INTERVAL
        return self._clock() - self._attempted_at >= interval

    async def _fetch(self) -> None:
        self._attempted_at = self._clock()
        # Imported here: only a first user token needs an HTTP client and cryptography.
        import httpx

        try:
            async with httpx.AsyncClient(timeout=_FETCH_TIMEOUT, follow_redirects=False) as client:
                response = await client.get(self._url, headers={"accept": "application/json"})
            response.raise_for_status()
            if len(response.content) > _LARGEST_ANSWER:
                raise ValueError("the answer is too large")
            keys = response.json()["keys"]
            if not all(isinstance(key, dict) for key in keys):
                raise ValueError("a key is no object")
            self._keys = usable_keys(keys)
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            _log.error("fetch_failed", error=error)
            return
        self._fetched_at = self._clock()


def usable_keys(entries: Iterable[Mapping[str, Any]]) -> "dict[str, PyJWK]":
    """Those `entries` of a JWKS that can prove a user token, by key id: P-256 for ES256, RSA for RS256.

    The key decides its algorithm here, so that a token cannot. Others (other curves, shared secrets,
    encryption) are left out.
    """
    from jwt import PyJWK
    from jwt.exceptions import PyJWTError

    keys = {}
    for entry in entries:
        algorithm = _algorithm(entry)
        key_id = entry.get("kid")
        if algorithm is None or not isinstance(key_id, str):
            continue
        try:
            keys[key_id] = PyJWK(dict(entry), algorithm)
        except PyJWTError as error:
            _log.warning("key_unusable", error_type=type(error).__name__)
    return keys


def _algorithm(entry: Mapping[str, Any]) -> str | None:
    if entry.get("kty") == "EC" and entry.get("crv") == "P-256":
        algorithm = "ES256"
    elif entry.get("kty") == "RSA":
        algorithm = "RS256"
    else:
        return None
    suits = entry.get("alg", algorithm) == algorithm and entry.get("use", "sig") == "sig"
    return algorithm if suits else None
