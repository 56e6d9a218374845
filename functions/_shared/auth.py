"""Who calls. The modes and their rules are those of Supabase's own server library (`@supabase/server`).

Modes are tried in order: `user` (a signed-in user's JWT as Bearer), `secret` (the key called `default` in the
apikey header), `secret:NAME` (a key of that name), `secret:*` (any). A credential that is missing
leaves the decision to the next mode; a user token that is present and wrong is refused at once, so it can
never be traded for less. Whether the user may do what they ask is decided by the database, from `members`.
"""

import asyncio
import functools
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from functions._shared.jwks import JwksCache, usable_keys
from services.whatsapp.actors import Actor, Member, Server
from services.whatsapp.refusals import RefusalError, refuse
from services.whatsapp.runtime import Runtime
from services.whatsapp.settings import Settings

if TYPE_CHECKING:
    from jwt import PyJWK
    from starlette.requests import Request

LEEWAY = 30
"""Seconds by which clocks may differ; PostgREST allows the same."""
AUDIENCE = "authenticated"
ROLE = "authenticated"

_LONGEST_TOKEN = 8 * 1024
_LEGACY_KEY = "it is a legacy API key; a server sends a secret key (sb_secret_…) in the apikey header"


async def authenticate(runtime: Runtime, request: "Request", modes: Sequence[str]) -> Actor:
    """Who calls, by the first of `modes` whose credential is there.

    Refuses `missing_credentials`, `invalid_token`, `token_expired`, `unsupported_token`, `invalid_api_key`
    and, when Supabase Auth does not answer, `signing_keys_unavailable`. Raises ValueError for a mode that
    does not exist.
    """
    api_key = request.headers.get("apikey", "").strip()
    _refuse_secret_in_browser(api_key, request, runtime.settings)
    for mode in modes:
        actor = await _try_mode(runtime, mode, request, api_key)
        if actor is not None:
            return actor
    raise _nobody(api_key, modes, runtime.settings)


async def _try_mode(runtime: Runtime, mode: str, request: "Request", api_key: str) -> Actor | None:
    if mode == "user":
        token = _bearer(request)
        return await _user(runtime, token) if token else None
    kind, _, name = mode.partition(":")
    if kind != "secret":
        raise ValueError(f"there is no mode {mode!r}")
    name = name or "default"
    accepted = {key: value for key, value in runtime.settings.secret_keys.items() if name in ("*", key)}
    key_name = _key_name(api_key, accepted)
    return Server(key_name) if key_name is not None else None


def _nobody(api_key: str, modes: Sequence[str], settings: Settings) -> RefusalError:
    takes_keys = any(mode.startswith("secret") for mode in modes)
    publishable = api_key.startswith("sb_publishable_") or _key_name(api_key, settings.publishable_keys) is not None
    # supabase-js always sends the publishable key: with it alone, what is missing is the user.
    if takes_keys and api_key and not (publishable and "user" in modes):
        reason = _LEGACY_KEY if api_key.startswith("eyJ") else None
        return refuse("invalid_api_key", field="apikey", reason=reason)
    return refuse("missing_credentials", field="authorization" if "user" in modes else "apikey")


def _refuse_secret_in_browser(api_key: str, request: "Request", settings: Settings) -> None:
    # A page may call itself what it likes; these are the browser's own words. (Node sends sec-fetch-mode.)
    says_so = any(name in request.headers for name in ("origin", "sec-fetch-site", "sec-fetch-dest"))
    if not says_so and "mozilla/" not in request.headers.get("user-agent", "").lower():
        return
    if api_key.startswith("sb_secret_") or _key_name(api_key, settings.secret_keys) is not None:
        raise refuse("invalid_api_key", field="apikey", reason="a secret key was sent by a browser: replace that key")


def _key_name(api_key: str, keys: Mapping[str, str]) -> str | None:
    """The name of the key that equals `api_key`. Each is compared in constant time, and all of them."""
    given = api_key.encode()
    found = None
    for name, key in keys.items():
        if hmac.compare_digest(given, key.encode()):
            found = name
    return found


def _bearer(request: "Request") -> str | None:
    """The user token, if one was sent.

    Older supabase-js sends an API key (`sb_…`) as Bearer: that is none.
    """
    scheme, _, value = request.headers.get("authorization", "").strip().partition(" ")
    token = value.strip()
    if scheme.lower() != "bearer" or not token or token.startswith("sb_"):
        return None
    return token


async def _user(runtime: Runtime, token: str) -> Member:
    if len(token) > _LONGEST_TOKEN:
        raise refuse("invalid_token", reason="it is too long")
    _refuse_legacy_key(token)
    claims = await _verified_claims(runtime, token)
    if claims.get("role") != ROLE:
        raise refuse("unsupported_token", reason="its role is not that of a signed-in user")
    if claims.get("is_anonymous") is True:
        raise refuse("unsupported_token", reason="anonymous users are not accepted")
    return Member(_user_id(claims), token)


def _refuse_legacy_key(token: str) -> None:
    """A project's old keys are tokens as well, and signing in again would not help: read for its role only."""
    import jwt

    try:
        role = jwt.decode(token, options={"verify_signature": False}).get("role")
    except jwt.InvalidTokenError:
        return
    if role == "anon":
        raise refuse("unsupported_token", reason="it is the project's anon key: nobody is signed in")
    if role == "service_role":
        raise refuse("unsupported_token", reason=_LEGACY_KEY)


async def _verified_claims(runtime: Runtime, token: str) -> dict[str, Any]:
    import jwt

    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        raise refuse("invalid_token", reason="it is not a JWT") from None
    key, algorithm = await _key_for(runtime, header)
    try:
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=AUDIENCE,
            issuer=runtime.settings.jwt_issuer,
            leeway=LEEWAY,
            options={"require": ["exp", "sub", "aud", *(["iss"] if runtime.settings.jwt_issuer else [])]},
        )
    except jwt.ExpiredSignatureError:
        raise refuse("token_expired") from None
    except jwt.InvalidTokenError as error:
        raise refuse("invalid_token", reason=_REASONS.get(type(error).__name__)) from None


_REASONS = {
    "InvalidSignatureError": "its signature is wrong",
    "InvalidAudienceError": "it is for another audience",
    "InvalidIssuerError": "it is of another issuer",
    "MissingRequiredClaimError": "a required claim is missing",
    "ImmatureSignatureError": "it is not valid yet",
}


async def _key_for(runtime: Runtime, header: Mapping[str, Any]) -> "tuple[PyJWK | str, str]":
    """The key that must prove a token with this header, and the one algorithm that key may be used with.

    A shared secret only ever proves HS256, a public key only the algorithm of its own type: what the token
    says about its algorithm chooses where to look, never how to check (RFC 8725, 3.1).
    """
    algorithm = header.get("alg")
    if algorithm == "HS256":
        if runtime.settings.jwt_secret is None:
            raise refuse("unsupported_token", reason="this project does not accept HS256")
        return runtime.settings.jwt_secret, "HS256"
    if algorithm not in ("ES256", "RS256"):
        raise refuse("unsupported_token", reason="its algorithm is not accepted")
    key_id = header.get("kid")
    if not isinstance(key_id, str):
        raise refuse("invalid_token", reason="it names no key")
    key = await _public_key(runtime, key_id)
    if key is None or key.algorithm_name != algorithm:
        raise refuse("invalid_token", reason="it is signed by an unknown key")
    return key, key.algorithm_name


async def _public_key(runtime: Runtime, key_id: str) -> "PyJWK | None":
    settings = runtime.settings
    if settings.jwks is not None:
        return _inline_keys(settings.jwks).get(key_id)
    # The keys are the process's, for they come seldom; only waiting for them belongs to a loop.
    return await _cache_of(settings.jwks_url).find(key_id, runtime.part(_fetching))


def _fetching(_: Runtime) -> asyncio.Lock:
    return asyncio.Lock()


@functools.cache
def _inline_keys(jwks: str) -> "dict[str, PyJWK]":
    return usable_keys(json.loads(jwks))


@functools.cache
def _cache_of(jwks_url: str) -> JwksCache:
    return JwksCache(jwks_url)


def _user_id(claims: Mapping[str, Any]) -> str:
    try:
        return str(UUID(claims["sub"]))
    except (ValueError, AttributeError):
        raise refuse("invalid_token", reason="its subject is no user id") from None
