"""The business numbers this deployment knows: the country of each account and its credentials at Meta.

Ids and tokens of Meta live only in the environment (never in the database), one group of variables a number:

    WHATSAPP_<COUNTRY>_<ACCOUNT>_PHONE_NUMBER_ID   digits, as shown in Meta's app dashboard
    WHATSAPP_<COUNTRY>_<ACCOUNT>_WABA_ID           digits
    WHATSAPP_<COUNTRY>_<ACCOUNT>_TOKEN             comma separated while rotating, newest first
    WHATSAPP_<COUNTRY>_<ACCOUNT>_PHONE_NUMBER      optional, the number itself: tells apart the
                                                   numbers of one WABA

`<ACCOUNT>` is the account id in upper case with "-" written "_".
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

NOWHERE = "ZZ"
"""The country of events nobody can be routed to. No account may use it."""

_VARIABLE = re.compile(r"WHATSAPP_([A-Z]{2})_([A-Z0-9]+(?:_[A-Z0-9]+)*?)_(PHONE_NUMBER_ID|WABA_ID|TOKEN|PHONE_NUMBER)")
_LOOKS_LIKE_ACCOUNT = re.compile(r"WHATSAPP_[A-Z]{2}_.*")
_ID = re.compile(r"[0-9]{5,32}")
_TOKEN = re.compile(r"[!-~]+")
_NOT_DIGIT = re.compile(r"[^0-9]")


@dataclass(frozen=True, slots=True)
class Account:
    """One business number. Its repr shows nothing that Meta or the team would call a secret."""

    country_id: str
    account_id: str
    phone_number_id: str = field(repr=False)
    waba_id: str = field(repr=False)
    tokens: tuple[str, ...] = field(repr=False)
    """Newest first. Empty where the token is missing: webhooks are still routed, nothing can be sent."""
    phone: str | None = field(default=None, repr=False)
    """Digits of the number itself, if the environment gives it."""
    key: bytes = field(init=False, repr=False, compare=False)
    """Country and account in one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.country_id}/{self.account_id}".encode())


class Directory:
    """Finds an account by our names or by Meta's ids.

    Raises ValueError when two accounts share a name or a phone number id: an event would have two owners.
    """

    def __init__(self, accounts: Iterable[Account], app_id: str | None = None) -> None:
        self.app_id = app_id
        """Meta's id of our app, if the environment gives it: tells our own removal from another partner's."""
        self._by_key: dict[tuple[str, str], Account] = {}
        self._by_phone_number_id: dict[str, Account] = {}
        self._by_waba_id: dict[str, tuple[Account, ...]] = {}
        for account in accounts:
            key = (account.country_id, account.account_id)
            if key in self._by_key or account.phone_number_id in self._by_phone_number_id:
                raise ValueError(
                    f"account {account.country_id}/{account.account_id} is listed twice or shares its number"
                )
            self._by_key[key] = account
            self._by_phone_number_id[account.phone_number_id] = account
            self._by_waba_id[account.waba_id] = (*self._by_waba_id.get(account.waba_id, ()), account)
        ids = self._by_phone_number_id.keys() | self._by_waba_id.keys() | ({app_id} if app_id else set())
        self.meta_ids: tuple[str, ...] = tuple(sorted(ids, key=len, reverse=True))
        """Every id of Meta in here, longest first: what must never be shown or stored."""

    def __repr__(self) -> str:
        return f"Directory({len(self._by_key)} accounts)"

    def __iter__(self) -> Iterator[Account]:
        return iter(self._by_key.values())

    def account(self, country_id: str, account_id: str) -> Account | None:
        return self._by_key.get((country_id, account_id))

    def by_phone_number_id(self, phone_number_id: str) -> Account | None:
        return self._by_phone_number_id.get(phone_number_id)

    def by_waba_id(self, waba_id: str) -> tuple[Account, ...]:
        """Every account of a WhatsApp business account: several numbers may share one."""
        return self._by_waba_id.get(waba_id, ())

    def keys(self) -> list[tuple[str, str]]:
        """(country_id, account_id) of every account, sorted."""
        return sorted(self._by_key)


def read_accounts(environ: Mapping[str, str]) -> tuple[list[Account], list[str]]:
    """The accounts an environment describes, and what is wrong with it in words for a person.

    Problems name variables, never their values. An account whose ids are missing, malformed or claimed by
    another account is left out; one that only lacks its token is kept, so that nothing inbound is lost.
    """
    groups, problems = _group_by_account(environ)
    accounts = []
    for (country, name), values in sorted(groups.items()):
        account, complaints = _read_account(country, name, values)
        problems += complaints
        if account:
            accounts.append(account)
    return _without_shared_numbers(accounts, problems)


def _group_by_account(environ: Mapping[str, str]) -> tuple[dict[tuple[str, str], dict[str, str]], list[str]]:
    groups: dict[tuple[str, str], dict[str, str]] = {}
    problems = []
    for variable in sorted(environ):
        match = _VARIABLE.fullmatch(variable)
        if match:
            country, name, part = match.groups()
            groups.setdefault((country, name), {})[part] = environ[variable].strip()
        elif _LOOKS_LIKE_ACCOUNT.fullmatch(variable):
            problems.append(
                f"{variable} is not understood: expected WHATSAPP_<COUNTRY>_<ACCOUNT>_ followed by "
                "PHONE_NUMBER_ID, WABA_ID, TOKEN or PHONE_NUMBER"
            )
    return groups, problems


def _read_account(country: str, name: str, values: Mapping[str, str]) -> tuple[Account | None, list[str]]:
    prefix = f"WHATSAPP_{country}_{name}"
    if country == NOWHERE:
        return None, [f"{prefix}_… uses country {NOWHERE}, which is kept for events nobody can be routed to"]
    problems = []
    for part in ("PHONE_NUMBER_ID", "WABA_ID"):
        value = values.get(part, "")
        if not value:
            problems.append(f"{prefix}_{part} is missing")
        elif not _ID.fullmatch(value):
            problems.append(f"{prefix}_{part} must be an id of digits only")
    usable = not problems
    tokens = _split(values.get("TOKEN", ""))
    if not tokens:
        problems.append(f"{prefix}_TOKEN is missing: this account can receive but not send")
    elif not all(_TOKEN.fullmatch(token) for token in tokens):
        problems.append(f"{prefix}_TOKEN contains a space or another character no token has")
        tokens = ()
    phone = _NOT_DIGIT.sub("", values.get("PHONE_NUMBER", "")) or None
    if not usable:
        return None, problems
    account_id = name.lower().replace("_", "-")
    return Account(country, account_id, values["PHONE_NUMBER_ID"], values["WABA_ID"], tokens, phone), problems


def _without_shared_numbers(accounts: list[Account], problems: list[str]) -> tuple[list[Account], list[str]]:
    """Leave out every account whose number another one claims too: guessing the owner could mix countries."""
    owners: dict[str, list[Account]] = {}
    for account in accounts:
        owners.setdefault(account.phone_number_id, []).append(account)
    for shared in owners.values():
        if len(shared) > 1:
            names = " and ".join(f"{account.country_id}/{account.account_id}" for account in shared)
            problems.append(f"{names} have the same PHONE_NUMBER_ID: none of them is used")
    return [account for account in accounts if len(owners[account.phone_number_id]) == 1], problems


def _split(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())
