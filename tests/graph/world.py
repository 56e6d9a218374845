"""The world the stand-in for Meta knows (tests only): business numbers, their tokens, templates per WABA.

Every id, token and secret is drawn at random at each start, so nothing here can be mistaken for a real one.
"""

import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

import orjson

from tests.graph.templates import Template, catalogue

# Dial code, and beginnings of mobile numbers with how many digits follow: numbers that libphonenumber calls
# valid.
DIAL_CODES = {"MX": "52", "CO": "57", "AR": "54", "BR": "55", "CL": "56", "PE": "51", "ES": "34", "US": "1"}
MOBILES = {
    "MX": ("5255", "5233", "5281"),
    "CO": ("57300", "57310", "57320"),
    "AR": ("54911",),
    "BR": ("55119",),
    "CL": ("5698",),
    "PE": ("519",),
    "ES": ("346",),
    "US": ("1212", "1305"),
}
LENGTHS = {"MX": 12, "CO": 12, "AR": 13, "BR": 13, "CL": 11, "PE": 11, "ES": 11, "US": 11}


def random_phone(country_id: str, random: Random | None = None) -> str:
    """A plausible mobile number of a country in E.164 with `+`. Pass a seeded `random` to get the same one
    again."""
    random = random or Random(secrets.randbits(64))
    start = random.choice(MOBILES[country_id])
    first = random.choice("2345678")
    rest = "".join(random.choices("0123456789", k=LENGTHS[country_id] - len(start) - 1))
    return f"+{start}{first}{rest}"


def random_id(digits: int = 16) -> str:
    """A numeric node id such as Meta gives, as a string without a leading zero."""
    return str(10 ** (digits - 1) + secrets.randbelow(9 * 10 ** (digits - 1)))


def country_of(digits: str) -> str | None:
    """Country of a number written as digits with dial code, among the countries known here."""
    for country_id, code in DIAL_CODES.items():
        if digits.startswith(code):
            return country_id
    return None


@dataclass(slots=True)
class Number:
    """A business phone number. `display_phone_number` is digits with the dial code, as in webhook
    metadata."""

    country_id: str
    account_id: str
    phone_number_id: str
    display_phone_number: str
    waba_id: str
    tokens: list[str]
    verified_name: str = "Stand-in"
    status: str = "CONNECTED"
    quality_rating: str = "GREEN"
    throughput: str = "STANDARD"
    messaging_limit: str = "TIER_2K"
    is_on_biz_app: bool = False

    @property
    def dial_code(self) -> str:
        return DIAL_CODES[self.country_id]

    @property
    def env_prefix(self) -> str:
        return f"WHATSAPP_{self.country_id}_{self.account_id.upper().replace('-', '_')}"


@dataclass(slots=True)
class World:
    """All the stand-in knows. `wa_ids` maps digits of a dialled number to the `wa_id` Meta would use instead
    (Mexico's and Brazil's extra prefix). `salt` makes user ids (BSUID) random per start."""

    numbers: list[Number]
    templates: dict[str, list[Template]]
    app_secret: str
    verify_token: str
    salt: str
    wa_ids: dict[str, str] = field(default_factory=dict)

    @classmethod
    def random(cls, countries: Iterable[str] = ("MX", "CO"), accounts: Iterable[str] = ("main",)) -> "World":
        """One number per country and account, each with its own WABA, token and the templates of
        `catalogue()`."""
        accounts = tuple(accounts)
        numbers = [
            Number(
                country_id=country_id,
                account_id=account_id,
                phone_number_id=random_id(15),
                display_phone_number=random_phone(country_id)[1:],
                waba_id=random_id(16),
                tokens=[secrets.token_urlsafe(48)],
            )
            for country_id in countries
            for account_id in accounts
        ]
        templates = {number.waba_id: catalogue(random_id) for number in numbers}
        return cls(numbers, templates, secrets.token_hex(16), secrets.token_urlsafe(16), secrets.token_hex(8))

    def number(self, country_id: str, account_id: str = "main") -> Number:
        """The number of an account; KeyError when there is none."""
        for number in self.numbers:
            if (number.country_id, number.account_id) == (country_id, account_id):
                return number
        raise KeyError((country_id, account_id))

    def by_id(self, phone_number_id: str) -> Number | None:
        return next((number for number in self.numbers if number.phone_number_id == phone_number_id), None)

    def template(self, waba_id: str, name: str, language: str) -> Template | None:
        found = (one for one in self.templates.get(waba_id, ()) if (one.name, one.language) == (name, language))
        return next(found, None)

    def env(self, graph_url: str) -> dict[str, str]:
        """The environment under which the product meets this world at `graph_url`."""
        env = {
            "WHATSAPP_APP_SECRET": self.app_secret,
            "WHATSAPP_VERIFY_TOKEN": self.verify_token,
            "META_GRAPH_URL": graph_url,
            "WHATSAPP_DEVELOPMENT": "true",
        }
        for number in self.numbers:
            env[f"{number.env_prefix}_PHONE_NUMBER_ID"] = number.phone_number_id
            env[f"{number.env_prefix}_WABA_ID"] = number.waba_id
            env[f"{number.env_prefix}_TOKEN"] = ",".join(number.tokens)
        return env

    def to_json(self) -> bytes:
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, data: bytes | str) -> "World":
        raw: dict[str, Any] = orjson.loads(data)
        numbers = [Number(**number) for number in raw.pop("numbers")]
        templates = {waba: [Template(**one) for one in many] for waba, many in raw.pop("templates").items()}
        return cls(numbers=numbers, templates=templates, **raw)
