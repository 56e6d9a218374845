"""The environment, read once and checked: the only place that knows the names of variables.

A value that is missing or unsafe raises ConfigurationError naming its variable, never its value. What one
account lacks is no error: it is listed in `directory_problems`, so that a mistake in one country does not
stop the others.
"""

import functools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from services.whatsapp import log
from services.whatsapp.directory import Directory, read_accounts

META_HOST = "graph.facebook.com"

_APP_ID = re.compile(r"[0-9]{5,32}")
_GRAPH_VERSION = re.compile(r"v[0-9]{1,3}\.[0-9]")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_SWITCH = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}


class ConfigurationError(Exception):
    """The environment lacks `variable` or holds an unusable value there.

    Holds no value, so it may be logged.
    """

    def __init__(self, variable: str, reason: str) -> None:
        super().__init__(f"{variable} {reason}")
        self.variable = variable
        self.reason = reason


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """Everything the environment decides.

    Its repr shows names and addresses, never a key, token or Meta id.
    """

    supabase_url: str
    """Without a trailing slash."""
    database_url: str | None
    """Where the verbs go past the Data API, with a password; None where they do not."""
    publishable_keys: Mapping[str, str]
    """Name to key; the singular variable's key is called `default`."""
    secret_keys: Mapping[str, str]
    """Name to key, at least one."""
    jwt_secret: str | None
    """Proves HS256 user tokens (older projects, the local stack)."""
    jwks: str | None
    """Public keys given inline, as a JSON array; None where `jwks_url` is to be asked."""
    jwks_url: str
    jwt_issuer: str | None
    """The issuer every user token must name, or None where it is not known."""
    directory: Directory
    directory_problems: tuple[str, ...]
    app_secrets: tuple[str, ...]
    """Several while rotating. Empty: the webhook accepts nothing."""
    verify_tokens: tuple[str, ...]
    graph_url: str
    """Without a trailing slash, without the version."""
    graph_version: str
    drain_budget: float
    """Seconds one call of queue-drain may work."""
    drain_concurrency: int
    """Messages one drainer has in flight at most."""
    kick: bool
    """Whether send starts the drainer after answering, instead of leaving it to cron."""
    log_level: str

    @property
    def secret_key(self) -> str:
        """The key for our own calls to Supabase: the one called `default`, else the first."""
        return self.secret_keys.get("default") or next(iter(self.secret_keys.values()))

    @property
    def publishable_key(self) -> str | None:
        """The key to send along with a user's token; None where only secret keys are set."""
        return self.publishable_keys.get("default") or next(iter(self.publishable_keys.values()), None)

    def __repr__(self) -> str:
        return (
            f"Settings(supabase_url={self.supabase_url!r}, secret_keys={sorted(self.secret_keys)}, "
            f"publishable_keys={sorted(self.publishable_keys)}, directory={self.directory!r}, "
            f"graph_url={self.graph_url!r}, graph_version={self.graph_version!r}, "
            f"app_secrets={len(self.app_secrets)}, verify_tokens={len(self.verify_tokens)})"
        )

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "Settings":
        """The settings that `environ` describes. Reads nothing else. Raises ConfigurationError."""
        development = _switch(environ, "WHATSAPP_DEVELOPMENT", default=False)
        supabase_url = _supabase_url(environ, "SUPABASE_URL", development)
        public_url = _supabase_url(environ, "SUPABASE_PUBLIC_URL", development, default=supabase_url)
        secret_keys = _keys(environ, "SUPABASE_SECRET_KEY")
        if not secret_keys:
            raise ConfigurationError("SUPABASE_SECRET_KEYS", "is missing or no JSON object of names and keys")
        accounts, problems = read_accounts(environ)
        return cls(
            supabase_url=supabase_url,
            database_url=_database_url(environ),
            publishable_keys=_keys(environ, "SUPABASE_PUBLISHABLE_KEY"),
            secret_keys=secret_keys,
            jwt_secret=_jwt_secret(environ),
            jwks=_jwks(environ),
            jwks_url=_jwks_url(environ, public_url),
            jwt_issuer=_value(environ, "SUPABASE_JWT_ISSUER") or _hosted_issuer(public_url),
            directory=Directory(accounts, _app_id(environ)),
            directory_problems=tuple(problems),
            app_secrets=_list(environ, "WHATSAPP_APP_SECRET"),
            verify_tokens=_list(environ, "WHATSAPP_VERIFY_TOKEN"),
            graph_url=_graph_url(environ, development),
            graph_version=_graph_version(environ),
            drain_budget=_number(environ, "WHATSAPP_DRAIN_BUDGET_SECONDS", default=50, lowest=1, highest=900),
            drain_concurrency=int(_number(environ, "WHATSAPP_DRAIN_CONCURRENCY", default=400, lowest=1, highest=1000)),
            kick=_switch(environ, "WHATSAPP_KICK", default=True),
            log_level=_log_level(environ),
        )


@functools.cache
def settings() -> Settings:
    """The settings of this process, read at the first call.

    A `.env` file fills in what the environment lacks.

    Raises ConfigurationError, again at each call until the environment is right. Tests that change the
    environment call `settings.cache_clear()`.
    """
    read = Settings.read({**_dotenv(Path(".env")), **os.environ})
    log.set_level(read.log_level)
    for problem in read.directory_problems:
        log.get("settings").warning("account_misconfigured", problem=problem)
    return read


def _dotenv(path: Path) -> dict[str, str]:
    if os.environ.get("WHATSAPP_DOTENV") == "off" or not path.is_file():
        return {}
    from dotenv import dotenv_values

    return {name: value for name, value in dotenv_values(path).items() if value is not None}


def _value(environ: Mapping[str, str], variable: str) -> str:
    return environ.get(variable, "").strip()


def _list(environ: Mapping[str, str], variable: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in _value(environ, variable).split(",") if part.strip())


def _switch(environ: Mapping[str, str], variable: str, *, default: bool) -> bool:
    value = _value(environ, variable).lower()
    if value and value not in _SWITCH:
        raise ConfigurationError(variable, "must be true or false")
    return _SWITCH[value] if value else default


def _number(environ: Mapping[str, str], variable: str, *, default: float, lowest: float, highest: float) -> float:
    value = _value(environ, variable)
    if not value:
        return default
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not lowest <= number <= highest:
        raise ConfigurationError(variable, f"must be a number from {lowest:g} to {highest:g}")
    return number


def _address(environ: Mapping[str, str], variable: str, *, default: str | None = None) -> str:
    value = _value(environ, variable).rstrip("/")
    if not value:
        if default is None:
            raise ConfigurationError(variable, "is missing")
        return default
    _host(value, variable)
    return value


def _supabase_url(environ: Mapping[str, str], variable: str, development: bool, *, default: str | None = None) -> str:
    """Who answers there is told our secret key: https, but on this machine and to a neighbour of its own network, whose
    name has no dot."""
    address = _address(environ, variable, default=default)
    host = _host(address, variable)
    abroad = host not in _LOOPBACK and ("." in host or ":" in host)
    if abroad and not development and not address.lower().startswith("https://"):
        raise ConfigurationError(
            variable, "must be https: our secret key goes there; WHATSAPP_DEVELOPMENT=true lifts this"
        )
    return address


def _database_url(environ: Mapping[str, str]) -> str | None:
    variable = "SUPABASE_DB_URL"
    value = _value(environ, variable)
    if not value:
        return None
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("postgres", "postgresql") or not parts.hostname or not parts.username:
        raise ConfigurationError(variable, "must look like postgresql://user:password@host:port/database")
    return value


def _host(address: str, variable: str) -> str:
    """The host of an http or https address. Refuses what hides another host or a password in it."""
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        raise ConfigurationError(variable, "must be a web address") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(variable, "must be a web address that begins with https://")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigurationError(variable, "must be a plain web address: no user, query or fragment")
    return parts.hostname


def _keys(environ: Mapping[str, str], variable: str) -> dict[str, str]:
    """Named keys of the plural variable (a JSON object), else the singular one under `default`.

    JSON that cannot be read counts as empty, as on Supabase's platform.
    """
    given = _json(environ, f"{variable}S")
    if isinstance(given, dict):
        named = {str(name): key.strip() for name, key in given.items() if isinstance(key, str) and key.strip()}
        if named:
            return named
    single = _value(environ, variable)
    return {"default": single} if single else {}


def _json(environ: Mapping[str, str], variable: str) -> Any:
    try:
        return json.loads(_value(environ, variable))
    except ValueError:
        return None


def _jwks(environ: Mapping[str, str]) -> str | None:
    given = _json(environ, "SUPABASE_JWKS")
    keys = given.get("keys") if isinstance(given, dict) else given
    usable = [key for key in keys if isinstance(key, dict)] if isinstance(keys, list) else []
    return json.dumps(usable) if usable else None


def _jwks_url(environ: Mapping[str, str], public_url: str) -> str:
    variable = "SUPABASE_JWKS_URL"
    value = _value(environ, variable)
    if not value:
        return f"{public_url}/auth/v1/.well-known/jwks.json"
    if _host(value, variable) not in _LOOPBACK and not value.startswith("https://"):
        raise ConfigurationError(variable, "must be https: whoever answers there decides whom we believe")
    return value


def _hosted_issuer(public_url: str) -> str | None:
    """Hosted projects name themselves in each token; another address says nothing about the issuer."""
    host = urlsplit(public_url).hostname or ""
    return f"https://{host}/auth/v1" if host.endswith(".supabase.co") else None


def _jwt_secret(environ: Mapping[str, str]) -> str | None:
    secret = _value(environ, "SUPABASE_JWT_SECRET")
    if secret and len(secret.encode()) < 32:
        raise ConfigurationError("SUPABASE_JWT_SECRET", "must have 32 bytes or more (RFC 7518, 3.2)")
    return secret or None


def _graph_url(environ: Mapping[str, str], development: bool) -> str:
    variable = "META_GRAPH_URL"
    address = _address(environ, variable, default=f"https://{META_HOST}")
    if not development and address != f"https://{META_HOST}":
        raise ConfigurationError(variable, f"must be https://{META_HOST}; WHATSAPP_DEVELOPMENT=true lifts this")
    return address


def _app_id(environ: Mapping[str, str]) -> str | None:
    app_id = _value(environ, "META_APP_ID")
    if app_id and not _APP_ID.fullmatch(app_id):
        raise ConfigurationError("META_APP_ID", "must be the app's id, digits only")
    return app_id or None


def _graph_version(environ: Mapping[str, str]) -> str:
    version = _value(environ, "META_GRAPH_VERSION") or "v25.0"
    if not _GRAPH_VERSION.fullmatch(version):
        raise ConfigurationError("META_GRAPH_VERSION", "must look like v25.0")
    return version


def _log_level(environ: Mapping[str, str]) -> str:
    level = _value(environ, "WHATSAPP_LOG_LEVEL").lower() or "info"
    if level not in log.LEVELS:
        raise ConfigurationError("WHATSAPP_LOG_LEVEL", f"must be one of {', '.join(log.LEVELS)}")
    return level
