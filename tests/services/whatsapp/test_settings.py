"""The environment is read strictly: what is missing or unsafe names its variable, and no value is ever shown."""

import json
import os
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from services.whatsapp.settings import ConfigurationError, Settings, settings

LEAST = {"SUPABASE_URL": "http://127.0.0.1:54321", "SUPABASE_SECRET_KEY": "sb_secret_one"}
FULL = {
    "SUPABASE_URL": "https://abc.supabase.co/",
    "SUPABASE_SECRET_KEYS": '{"default": "sb_secret_one", "cron": "sb_secret_two"}',
    "SUPABASE_PUBLISHABLE_KEYS": '{"default": "sb_publishable_one"}',
    "SUPABASE_JWT_SECRET": "hidden-jwt-secret-of-thirty-two-bytes",
    "SUPABASE_JWKS": '{"keys": [{"kty": "EC", "kid": "a"}]}',
    "SUPABASE_DB_URL": "postgresql://postgres:hidden@db.abc.supabase.co:5432/postgres",
    "WHATSAPP_MX_MAIN_PHONE_NUMBER_ID": "106540352242922",
    "WHATSAPP_MX_MAIN_WABA_ID": "102290129340398",
    "WHATSAPP_MX_MAIN_TOKEN": "hidden-token",
    "WHATSAPP_CO_MAIN_WABA_ID": "102290129340399",
    "WHATSAPP_APP_SECRET": "hidden-new, hidden-old",
    "WHATSAPP_VERIFY_TOKEN": "hidden-verify",
    "WHATSAPP_DRAIN_BUDGET_SECONDS": "20.5",
    "WHATSAPP_DRAIN_CONCURRENCY": "40",
    "WHATSAPP_KICK": "off",
    "WHATSAPP_LOG_LEVEL": "Debug",
}


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A process with no variable of ours, in an empty folder."""
    for variable in list(os.environ):
        if variable.startswith(("SUPABASE_", "WHATSAPP_", "META_")):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


def test_defaults() -> None:
    read = Settings.read(LEAST)
    assert read.supabase_url == "http://127.0.0.1:54321"
    assert read.jwks_url == "http://127.0.0.1:54321/auth/v1/.well-known/jwks.json"
    assert (read.graph_url, read.graph_version) == ("https://graph.facebook.com", "v25.0")
    assert (read.app_secrets, read.verify_tokens) == ((), ())
    assert (read.jwt_secret, read.jwks, read.jwt_issuer) == (None, None, None)
    assert read.kick is True
    assert read.log_level == "info"
    assert read.publishable_key is None
    assert read.database_url is None


def test_a_full_environment() -> None:
    read = Settings.read(FULL)
    assert read.supabase_url == "https://abc.supabase.co"
    assert read.secret_keys == {"default": "sb_secret_one", "cron": "sb_secret_two"}
    assert (read.secret_key, read.publishable_key) == ("sb_secret_one", "sb_publishable_one")
    assert read.jwt_issuer == "https://abc.supabase.co/auth/v1"
    assert read.database_url == "postgresql://postgres:hidden@db.abc.supabase.co:5432/postgres"
    assert json.loads(read.jwks or "") == [{"kty": "EC", "kid": "a"}]
    assert read.app_secrets == ("hidden-new", "hidden-old")
    assert read.directory.keys() == [("MX", "main")]
    assert any("WHATSAPP_CO_MAIN_PHONE_NUMBER_ID" in problem for problem in read.directory_problems)
    assert (read.drain_budget, read.drain_concurrency, read.kick, read.log_level) == (
        20.5,
        40,
        False,
        "debug",
    )


def test_repr_hides_every_secret_and_meta_id() -> None:
    shown = repr(Settings.read(FULL)) + str(Settings.read(FULL))
    for hidden in ("hidden", "sb_secret", "sb_publishable", "106540352242922", "102290129340398"):
        assert hidden not in shown


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings.read(LEAST).kick = False  # type: ignore[misc]


@pytest.mark.parametrize(
    ("extra", "names"),
    [
        ({"SUPABASE_SECRET_KEYS": '{"cron": "sb_secret_two"}'}, {"cron": "sb_secret_two"}),
        ({"SUPABASE_SECRET_KEYS": "{broken"}, {"default": "sb_secret_one"}),
        ({"SUPABASE_SECRET_KEYS": "{}"}, {"default": "sb_secret_one"}),
        ({"SUPABASE_SECRET_KEYS": '{"default": "", "cron": 5}'}, {"default": "sb_secret_one"}),
        ({"SUPABASE_SECRET_KEYS": '["sb_secret_two"]'}, {"default": "sb_secret_one"}),
    ],
)
def test_plural_keys_come_before_the_singular(extra: dict[str, str], names: dict[str, str]) -> None:
    assert Settings.read(LEAST | extra).secret_keys == names


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SUPABASE_URL", ""),
        ("SUPABASE_URL", "abc.supabase.co"),
        ("SUPABASE_URL", "https://user:hidden@abc.supabase.co"),
        ("SUPABASE_URL", "https://[hidden"),
        ("SUPABASE_SECRET_KEY", " "),
        ("SUPABASE_DB_URL", "https://postgres:hidden@db.abc.supabase.co"),
        ("SUPABASE_DB_URL", "postgresql://db.hidden.example/postgres"),
        ("SUPABASE_DB_URL", "postgresql://postgres:hidden@db.example:port/postgres"),
        ("SUPABASE_DB_URL", "postgresql://postgres:hidden@/postgres"),
        ("SUPABASE_JWT_SECRET", "hidden-too-short"),
        ("SUPABASE_URL", "http://hidden.example"),
        ("SUPABASE_URL", "HTTP://[2001:db8::1]:8000"),
        ("SUPABASE_PUBLIC_URL", "http://hidden.example"),
        ("SUPABASE_JWKS_URL", "http://hidden.example/jwks.json"),
        ("META_GRAPH_URL", "http://127.0.0.1:9000"),
        ("META_GRAPH_URL", "http://graph.facebook.com"),
        ("META_GRAPH_URL", "https://graph.facebook.com.hidden.example"),
        ("META_GRAPH_URL", "https://graph.facebook.com@hidden.example"),
        ("META_GRAPH_URL", "https://graph.facebook.com/hidden"),
        ("META_GRAPH_VERSION", "25"),
        ("META_GRAPH_VERSION", "v25.0/../v1.0"),
        ("WHATSAPP_DEVELOPMENT", "perhaps"),
        ("WHATSAPP_KICK", "hidden"),
        ("WHATSAPP_DRAIN_BUDGET_SECONDS", "hidden"),
        ("WHATSAPP_DRAIN_BUDGET_SECONDS", "nan"),
        ("WHATSAPP_DRAIN_CONCURRENCY", "0"),
        ("WHATSAPP_LOG_LEVEL", "hidden"),
    ],
)
def test_unusable_values_name_their_variable_and_no_value(variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.read(LEAST | {variable: value})
    assert caught.value.variable.startswith(variable)
    assert "hidden" not in str(caught.value)


def test_development_lifts_the_wall_around_meta() -> None:
    read = Settings.read(LEAST | {"META_GRAPH_URL": "http://127.0.0.1:9000/", "WHATSAPP_DEVELOPMENT": "true"})
    assert read.graph_url == "http://127.0.0.1:9000"


@pytest.mark.parametrize(
    ("extra", "issuer"),
    [
        ({"SUPABASE_URL": "https://abc.supabase.co"}, "https://abc.supabase.co/auth/v1"),
        ({"SUPABASE_URL": "https://abc.supabase.co.example.com"}, None),
        ({"SUPABASE_URL": "https://api.example.com"}, None),
        (
            {"SUPABASE_URL": "http://kong:8000", "SUPABASE_PUBLIC_URL": "https://abc.supabase.co"},
            "https://abc.supabase.co/auth/v1",
        ),
        ({"SUPABASE_JWT_ISSUER": "https://api.example.com/auth/v1"}, "https://api.example.com/auth/v1"),
    ],
)
def test_issuer_is_known_for_hosted_projects_or_by_name(extra: dict[str, str], issuer: str | None) -> None:
    assert Settings.read(LEAST | extra).jwt_issuer == issuer


@pytest.mark.parametrize(
    ("jwks", "expected"),
    [
        ('[{"kid": "a"}]', [{"kid": "a"}]),
        ('{"keys": []}', None),
        ("{broken", None),
        ('"text"', None),
        ('{"keys": {"kid": "a"}}', None),
    ],
)
def test_inline_keys(jwks: str, expected: object) -> None:
    read = Settings.read(LEAST | {"SUPABASE_JWKS": jwks}).jwks
    assert (json.loads(read) if read else None) == expected


def test_settings_are_read_once(clean_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in LEAST.items():
        monkeypatch.setenv(variable, value)
    first = settings()
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:1")
    assert settings() is first


def test_a_dotenv_file_fills_what_the_environment_lacks(
    clean_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clean_environment / ".env").write_text("SUPABASE_URL=http://127.0.0.1:1\nSUPABASE_SECRET_KEY=sb_secret_file\n")
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:2")
    read = settings()
    assert (read.supabase_url, read.secret_key) == ("http://127.0.0.1:2", "sb_secret_file")
    assert "SUPABASE_SECRET_KEY" not in os.environ


def test_dotenv_can_be_switched_off(clean_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clean_environment / ".env").write_text("SUPABASE_URL=http://127.0.0.1:1\nSUPABASE_SECRET_KEY=sb_secret_file\n")
    monkeypatch.setenv("WHATSAPP_DOTENV", "off")
    with pytest.raises(ConfigurationError, match="SUPABASE_URL"):
        settings()
