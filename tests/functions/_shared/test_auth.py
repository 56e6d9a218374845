"""Who calls: real tokens by real keys, real secret keys, and every forgery that is known to work elsewhere."""

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.requests import Request
from starlette.types import ASGIApp

from functions._shared import auth
from functions._shared.answers import Answer
from functions._shared.app import Function, function
from functions._shared.auth import authenticate
from functions._shared.jwks import LIFETIME, REFETCH_INTERVAL, RETRY_INTERVAL, JwksCache
from services.whatsapp.actors import Actor, Member, Server
from services.whatsapp.refusals import RefusalError
from services.whatsapp.runtime import Runtime
from services.whatsapp.settings import Settings
from tests.functions._shared.asgi import call

CASES = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parents[2] / "payloads" / "auth").glob("*.json"))
}

USER_ID = "0198a000-0000-7000-8000-000000000001"
ISSUER = "https://abc.supabase.co/auth/v1"
SHARED = "a-shared-secret-that-is-long-enough-for-each-hmac-of-the-jwt-family"
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
STRANGER = ec.generate_private_key(ec.SECP256R1())
P384_KEY = ec.generate_private_key(ec.SECP384R1())
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def public_jwk(key: ec.EllipticCurvePrivateKey, key_id: str, **more: str) -> dict[str, Any]:
    return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id, **more}


JWKS = {
    "keys": [
        public_jwk(EC_KEY, "ec-1", alg="ES256", use="sig"),
        {**RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True), "kid": "rsa-1"},
        public_jwk(EC_KEY, "ec-encryption", use="enc"),
        public_jwk(P384_KEY, "p384"),
        {"kty": "oct", "kid": "oct-1", "k": "c2VjcmV0"},
        {"kty": "EC", "crv": "P-256", "kid": "broken"},
    ]
}

ENVIRONMENT = {
    "SUPABASE_URL": "https://abc.supabase.co",
    "SUPABASE_SECRET_KEYS": '{"default": "sb_secret_default", "cron": "sb_secret_cron"}',
    "SUPABASE_PUBLISHABLE_KEYS": '{"default": "sb_publishable_web"}',
    "SUPABASE_JWT_SECRET": SHARED,
    "SUPABASE_JWKS": json.dumps(JWKS),
}
SETTINGS = Settings.read(ENVIRONMENT)


def claims(**changes: Any) -> dict[str, Any]:
    """A good token's claims with `changes`: None removes one, numbers for times are seconds from now."""
    now = int(time.time())
    good = {
        "iss": ISSUER, "aud": "authenticated", "exp": now + 3600, "iat": now, "sub": USER_ID,
        "role": "authenticated", "email": "ana@example.com", "session_id": "s", "is_anonymous": False,
    }  # fmt: skip
    changed = {**good, **changes, **{k: now + changes[k] for k in ("exp", "iat", "nbf") if changes.get(k)}}
    return {name: value for name, value in changed.items() if value is not None}


def encode(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def public_pem() -> bytes:
    return EC_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def forge_with_public_key(header: dict[str, Any], body: dict[str, Any]) -> str:
    """PyJWT refuses to make this token, so an attacker's own few lines do."""
    signed = f"{encode(header)}.{encode(body)}"
    digest = hmac.new(public_pem(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def token_of(case: dict[str, Any]) -> str:
    """The token that a payload file describes."""
    body = claims(**case.get("claims", {}))
    header = dict(case.get("header", {}))
    match case["signed_by"]:
        case "text":
            return str(case["text"])
        case "none":
            return f"{encode({'alg': 'none', 'typ': 'JWT', **header})}.{encode(body)}."
        case "public":
            return forge_with_public_key({"alg": "HS256", "typ": "JWT", **header}, body)
    key, algorithm, key_id = {
        "ec": (EC_KEY, "ES256", "ec-1"),
        "rsa": (RSA_KEY, "RS256", "rsa-1"),
        "shared": (SHARED, "HS256", None),
        "stranger": (STRANGER, "ES256", "ec-1"),
        "stranger_secret": (SHARED[::-1], "HS256", None),
    }[case["signed_by"]]
    algorithm = header.pop("alg", algorithm)
    header = {name: value for name, value in {"kid": key_id, **header}.items() if value is not None}
    if not isinstance(body.get("sub", ""), str):
        # PyJWT refuses to encode such a subject, so it is signed as raw bytes.
        token = jwt.api_jws.encode(json.dumps(body).encode(), key, algorithm, headers=header)  # type: ignore[arg-type]
    else:
        token = jwt.encode(body, key, algorithm, headers=header)  # type: ignore[arg-type]
    first, _, signature = token.split(".")
    if "tampered_claims" in case:
        return f"{first}.{encode({**body, **case['tampered_claims']})}.{signature}"
    return f"{first}.{encode(body)}." if case.get("cut") else token


def es256_token(key: ec.EllipticCurvePrivateKey = EC_KEY, key_id: str = "ec-1", **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, "ES256", headers={"kid": key_id})


def request_with(headers: dict[str, str]) -> Request:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": raw})


async def actor_by(headers: dict[str, str], *modes: str, settings: Settings = SETTINGS) -> Actor:
    return await authenticate(Runtime(settings), request_with(headers), modes)


async def code_of(headers: dict[str, str], *modes: str, settings: Settings = SETTINGS) -> str:
    with pytest.raises(RefusalError) as caught:
        await actor_by(headers, *modes, settings=settings)
    return caught.value.code


# --- user tokens ---


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_user_tokens(case: dict[str, Any]) -> None:
    headers = {"authorization": f"Bearer {token_of(case)}", "apikey": "sb_secret_default"}
    if case["refused"]:
        # The secret key would do, but a wrong token is never traded for less.
        assert await code_of(headers, "user", "secret") == case["refused"], case["about"]
        return
    token = headers["authorization"].removeprefix("Bearer ")
    assert await actor_by(headers, "user", "secret") == Member(USER_ID, token), case["about"]


async def test_a_token_of_the_local_stack_needs_no_issuer() -> None:
    local = Settings.read({**ENVIRONMENT, "SUPABASE_URL": "http://127.0.0.1:54321"})
    body = {key: value for key, value in claims().items() if key not in ("iss", "is_anonymous")}
    token = jwt.encode(body, SHARED, "HS256")
    assert await actor_by({"authorization": f"Bearer {token}"}, "user", settings=local) == Member(USER_ID, token)


async def test_hs256_is_refused_where_no_secret_is_configured() -> None:
    modern = replace(SETTINGS, jwt_secret=None)
    token = jwt.encode(claims(), SHARED, "HS256")
    assert await code_of({"authorization": f"Bearer {token}"}, "user", settings=modern) == "unsupported_token"


async def test_a_key_of_another_curve_proves_nothing() -> None:
    token = jwt.encode(claims(), P384_KEY, "ES384", headers={"kid": "p384"})
    assert await code_of({"authorization": f"Bearer {token}"}, "user") == "unsupported_token"
    head, _, _ = es256_token(key_id="p384").split(".")
    assert await code_of({"authorization": f"Bearer {head}.{encode(claims())}.AAAA"}, "user") == "invalid_token"


async def test_a_refusal_says_nothing_of_the_token() -> None:
    token = es256_token(STRANGER)
    with pytest.raises(RefusalError) as caught:
        await actor_by({"authorization": f"Bearer {token}"}, "user")
    assert token not in str(caught.value.body())
    assert caught.value.__cause__ is None


async def test_a_member_hides_its_token() -> None:
    actor = await actor_by({"authorization": f"Bearer {es256_token()}"}, "user")
    assert "eyJ" not in repr(actor)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", " Bearer ", "Bearer  "])
async def test_the_scheme_is_read_leniently(scheme: str) -> None:
    assert isinstance(await actor_by({"authorization": f"{scheme} {es256_token()} "}, "user"), Member)


# --- secret keys and modes ---


@pytest.mark.parametrize(
    ("api_key", "modes", "key_name"),
    [
        ("sb_secret_default", ("secret",), "default"),
        ("sb_secret_default", ("user", "secret"), "default"),
        ("sb_secret_cron", ("secret:cron",), "cron"),
        ("sb_secret_cron", ("secret", "secret:cron"), "cron"),
        ("sb_secret_cron", ("secret:*",), "cron"),
        ("sb_secret_default", ("secret:*",), "default"),
        (" sb_secret_default ", ("secret",), "default"),
    ],
)
async def test_secret_keys(api_key: str, modes: tuple[str, ...], key_name: str) -> None:
    actor = await actor_by({"apikey": api_key, "user-agent": "pg_net/0.20.4"}, *modes)
    assert isinstance(actor, Server)
    assert actor.key_name == key_name


@pytest.mark.parametrize(
    ("headers", "modes", "code"),
    [
        ({}, ("user",), "missing_credentials"),
        ({}, ("secret",), "missing_credentials"),
        ({}, ("user", "secret"), "missing_credentials"),
        ({"apikey": ""}, ("secret",), "missing_credentials"),
        ({"apikey": "sb_secret_wrong"}, ("secret",), "invalid_api_key"),
        ({"apikey": "sb_secret_wrong"}, ("user", "secret"), "invalid_api_key"),
        ({"apikey": "sb_secret_default\xe9"}, ("secret",), "invalid_api_key"),
        ({"apikey": "sb_secret_cron"}, ("secret",), "invalid_api_key"),
        ({"apikey": "sb_secret_default"}, ("secret:cron",), "invalid_api_key"),
        ({"apikey": "sb_secret_default"}, ("secret:other",), "invalid_api_key"),
        ({"apikey": "sb_secret_default"}, ("user",), "missing_credentials"),
        ({"apikey": "sb_publishable_web"}, ("secret",), "invalid_api_key"),
        # supabase-js without a session: what is missing is the user.
        ({"apikey": "sb_publishable_web"}, ("user", "secret"), "missing_credentials"),
        ({"apikey": "sb_publishable_web", "authorization": "Bearer sb_p"}, ("user",), "missing_credentials"),
        ({"authorization": "Bearer sb_secret_default"}, ("user", "secret"), "missing_credentials"),
        ({"authorization": "Bearer"}, ("user",), "missing_credentials"),
        ({"authorization": "Basic YTpi"}, ("user",), "missing_credentials"),
        ({"apikey": "sb_secret_default", "user-agent": BROWSER}, ("secret",), "invalid_api_key"),
        ({"apikey": "sb_secret_other", "user-agent": BROWSER}, ("user",), "invalid_api_key"),
    ],
)
async def test_callers_without_a_usable_credential(headers: dict[str, str], modes: tuple[str, ...], code: str) -> None:
    assert await code_of(headers, *modes) == code


async def test_a_bearer_api_key_is_no_broken_token() -> None:
    headers = {"authorization": "Bearer sb_secret_default", "apikey": "sb_secret_default"}
    assert isinstance(await actor_by(headers, "user", "secret"), Server)


@pytest.mark.parametrize(
    "browser",
    [
        {"user-agent": BROWSER},
        {"user-agent": "shop/1", "origin": "https://shop.example"},
        {"user-agent": "shop/1", "sec-fetch-site": "same-site"},
        {"user-agent": "shop/1", "sec-fetch-dest": "empty"},
    ],
)
async def test_a_secret_key_in_a_browser_is_refused_even_beside_a_user(browser: dict[str, str]) -> None:
    headers = {"authorization": f"Bearer {es256_token()}", "apikey": "sb_secret_cron"} | browser
    assert await code_of(headers, "user", "secret") == "invalid_api_key"


async def test_a_server_that_fetches_as_node_does_is_no_browser() -> None:
    headers = {"apikey": "sb_secret_default", "sec-fetch-mode": "cors", "user-agent": "node"}
    assert await actor_by(headers, "secret") == Server("default")


@pytest.mark.parametrize(("role", "told"), [("service_role", "sb_secret_"), ("anon", "nobody is signed in")])
async def test_a_projects_legacy_key_is_called_by_its_name(role: str, told: str) -> None:
    key = jwt.encode({"iss": "supabase", "ref": "abc", "role": role, "exp": 2**31}, "x" * 40, algorithm="HS256")
    with pytest.raises(RefusalError) as refused:
        await actor_by({"authorization": f"Bearer {key}", "apikey": key}, "user", "secret")
    assert refused.value.code == "unsupported_token"
    assert told in str(refused.value.body()["message"]) + str(refused.value.body()["details"])
    with pytest.raises(RefusalError) as refused:
        await actor_by({"apikey": key}, "secret")
    assert refused.value.code == "invalid_api_key"
    assert "legacy" in str(refused.value.body())


async def test_a_browser_with_a_publishable_key_is_welcome() -> None:
    headers = {
        "authorization": f"Bearer {es256_token()}",
        "apikey": "sb_publishable_web",
        "user-agent": BROWSER,
    }
    assert isinstance(await actor_by(headers, "user"), Member)


async def test_a_misspelt_mode_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="secrets"):
        await actor_by({}, "secrets")


# --- public keys over HTTP ---


class KeyServer:
    """A JWKS address on loopback: what it answers can be changed, and how often it was asked is counted."""

    def __init__(self) -> None:
        self.status = 200
        self.body: bytes = json.dumps(JWKS).encode()
        self.asked = 0
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.asked += 1
                self.send_response(served.status)
                self.send_header("content-length", str(len(served.body)))
                self.end_headers()
                self.wfile.write(served.body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/auth/v1/.well-known/jwks.json"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def key_server() -> Iterator[KeyServer]:
    server = KeyServer()
    yield server
    server.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def find(cache: JwksCache, key_id: str) -> PyJWK | None:
    return await cache.find(key_id, asyncio.Lock())


async def refusal_of(cache: JwksCache, key_id: str) -> str:
    with pytest.raises(RefusalError) as caught:
        await find(cache, key_id)
    return caught.value.code


async def test_only_usable_keys_are_taken(key_server: KeyServer, clock: Clock) -> None:
    cache = JwksCache(key_server.url, clock)
    found = {key_id: await find(cache, key_id) for key_id in ("ec-1", "rsa-1")}
    assert {key_id: key.algorithm_name for key_id, key in found.items() if key} == {
        "ec-1": "ES256",
        "rsa-1": "RS256",
    }
    for key_id in ("ec-encryption", "p384", "oct-1", "broken"):
        assert await find(cache, key_id) is None
    assert key_server.asked == 1


async def test_keys_are_kept_ten_minutes(key_server: KeyServer, clock: Clock) -> None:
    cache = JwksCache(key_server.url, clock)
    await find(cache, "ec-1")
    clock.now += LIFETIME - 1
    await find(cache, "ec-1")
    assert key_server.asked == 1
    clock.now += 1
    key_server.body = b'{"keys": []}'
    assert await find(cache, "ec-1") is None, "a revoked key must be forgotten"
    assert key_server.asked == 2


async def test_an_unknown_key_is_asked_for_once_in_a_while(key_server: KeyServer, clock: Clock) -> None:
    cache = JwksCache(key_server.url, clock)
    await find(cache, "ec-1")
    key_server.body = json.dumps({"keys": [*JWKS["keys"], public_jwk(STRANGER, "ec-2")]}).encode()
    assert await find(cache, "ec-2") is None, "too early to ask again"
    clock.now += REFETCH_INTERVAL
    assert await find(cache, "ec-2") is not None
    for made_up in range(5):
        assert await find(cache, f"made-up-{made_up}") is None
    assert key_server.asked == 2


async def test_many_at_once_ask_once(key_server: KeyServer, clock: Clock) -> None:
    cache, one = JwksCache(key_server.url, clock), asyncio.Lock()
    found = await asyncio.gather(*(cache.find("ec-1", one) for _ in range(20)))
    assert all(found)
    assert key_server.asked == 1


def test_keys_are_fetched_in_one_loop_after_another_however_many_ask() -> None:
    """A lock that has seen callers wait in one loop refuses those of the next."""

    async def ask(cache: JwksCache) -> None:
        fetching = Runtime(SETTINGS).part(auth._fetching)
        answers = await asyncio.gather(*(cache.find("key", fetching) for _ in range(5)), return_exceptions=True)
        assert {getattr(answer, "code", None) for answer in answers} == {"signing_keys_unavailable"}

    times = iter(range(0, 100_000, 1_000))
    cache = JwksCache("http://127.0.0.1:9/jwks", clock=lambda: float(next(times)))
    for _ in range(3):
        asyncio.run(ask(cache))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (302, b""),
        (200, b"not json"),
        (200, b"{}"),
        (200, b"[]"),
        (200, b'{"keys": 7}'),
        (200, b'{"keys": ["text"]}'),
        (200, b'{"keys": []}' + b" " * 70_000),
    ],
)
async def test_no_usable_answer_means_nobody_is_believed(
    key_server: KeyServer, clock: Clock, status: int, body: bytes
) -> None:
    key_server.status, key_server.body = status, body
    cache = JwksCache(key_server.url, clock)
    assert await refusal_of(cache, "ec-1") == "signing_keys_unavailable"
    assert await refusal_of(cache, "ec-1") == "signing_keys_unavailable"
    assert key_server.asked == 1, "an outage is not made worse"
    key_server.status, key_server.body = 200, json.dumps(JWKS).encode()
    clock.now += RETRY_INTERVAL
    assert await find(cache, "ec-1") is not None


async def test_known_keys_outlive_a_short_outage(key_server: KeyServer, clock: Clock) -> None:
    cache = JwksCache(key_server.url, clock)
    await find(cache, "ec-1")
    key_server.status = 500
    clock.now += REFETCH_INTERVAL
    assert await find(cache, "unknown") is None
    assert await find(cache, "ec-1") is not None
    clock.now += LIFETIME
    assert await refusal_of(cache, "ec-1") == "signing_keys_unavailable"


async def test_a_token_is_proved_by_fetched_keys(key_server: KeyServer) -> None:
    fetching = replace(SETTINGS, jwks=None, jwks_url=key_server.url)
    for _ in range(3):
        actor = await actor_by({"authorization": f"Bearer {es256_token()}"}, "user", settings=fetching)
        assert actor.member_id == USER_ID
    assert key_server.asked == 1


async def test_an_unreachable_key_server_is_not_the_callers_fault(key_server: KeyServer) -> None:
    key_server.close()
    fetching = replace(SETTINGS, jwks=None, jwks_url=key_server.url)
    code = await code_of({"authorization": f"Bearer {es256_token()}"}, "user", "secret", settings=fetching)
    assert code == "signing_keys_unavailable"


# --- through a function ---


def whoami() -> Function:
    async def handler(request: Request) -> ASGIApp:
        actor = await authenticate(Runtime(SETTINGS), request, ("user", "secret"))
        return Answer({"actor": actor.member_id})

    return function("send", {"POST": handler})


async def answer_to(headers: dict[str, str], method: str = "POST") -> httpx.Response:
    return await call(whoami(), method, "/functions/v1/send", headers=headers)


async def test_a_door_answers_a_user() -> None:
    response = await answer_to({"authorization": f"Bearer {es256_token()}"})
    assert (response.status_code, response.json()) == (200, {"actor": USER_ID})


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_credentials"),
        ({"authorization": f"Bearer {es256_token(exp=-3600)}"}, "token_expired"),
        ({"authorization": f"Bearer {es256_token(STRANGER)}"}, "invalid_token"),
        ({"apikey": "sb_secret_wrong"}, "invalid_api_key"),
    ],
)
async def test_a_door_refuses_with_401_that_a_browser_can_read(headers: dict[str, str], code: str) -> None:
    response = await answer_to(headers)
    assert (response.status_code, response.json()["code"]) == (401, code)
    assert response.headers["access-control-allow-origin"] == "*"


async def test_a_preflight_needs_no_credentials() -> None:
    assert (await answer_to({}, "OPTIONS")).status_code == 204
