"""Accounts from the environment: what is read, what is refused, and that nothing secret is ever printed."""

import pytest

from services.whatsapp.directory import Account, Directory, read_accounts

MAIN = Account("MX", "main", "106540352242922", "102290129340398", ("secret-new", "secret-old"), "525550001111")
SHOP = Account("MX", "shop", "108765432109876", "102290129340398", ("secret-shop",))
SOUTH = Account("AR", "main", "207651463353033", "303391230451509", ("secret-south",))
ENVIRONMENT = {
    "WHATSAPP_MX_MAIN_PHONE_NUMBER_ID": "106540352242922",
    "WHATSAPP_MX_MAIN_WABA_ID": "102290129340398",
    "WHATSAPP_MX_MAIN_TOKEN": "secret-new, secret-old",
    "WHATSAPP_MX_MAIN_PHONE_NUMBER": "+52 55 5000 1111",
    "WHATSAPP_APP_SECRET": "not an account",
    "WHATSAPP_VERIFY_TOKEN": "not an account either",
    "PATH": "/bin",
}


def test_an_account_is_found_by_every_name_it_has() -> None:
    directory = Directory([MAIN, SHOP, SOUTH])
    assert directory.account("MX", "main") is MAIN
    assert directory.by_phone_number_id("207651463353033") is SOUTH
    assert directory.by_waba_id("102290129340398") == (MAIN, SHOP)
    assert directory.keys() == [("AR", "main"), ("MX", "main"), ("MX", "shop")]


def test_what_is_not_there_is_not_found() -> None:
    directory = Directory([MAIN])
    assert directory.account("AR", "main") is None
    assert directory.by_phone_number_id("1") is None
    assert directory.by_waba_id("1") == ()


@pytest.mark.parametrize(
    "twin",
    [
        Account("AR", "main", MAIN.phone_number_id, "303391230451509", ()),
        Account("MX", "main", "999999999999999", "303391230451509", ()),
    ],
    ids=["same number", "same name"],
)
def test_two_accounts_never_share_a_name_or_number(twin: Account) -> None:
    with pytest.raises(ValueError, match=r"^account \w\w/main is listed twice or shares its number$"):
        Directory([MAIN, twin])


def test_nothing_secret_is_printed() -> None:
    printed = repr(MAIN) + repr(Directory([MAIN])) + str(MAIN)
    assert "main" in printed
    for secret in ("106540352242922", "102290129340398", "secret", "525550001111"):
        assert secret not in printed


def test_the_environment_describes_accounts() -> None:
    accounts, problems = read_accounts(ENVIRONMENT)
    assert accounts == [MAIN]
    assert problems == []


def test_account_ids_with_several_words_and_digits() -> None:
    accounts, problems = read_accounts(
        {
            "WHATSAPP_MX_STORE_2_NORTH_PHONE_NUMBER_ID": "106540352242922",
            "WHATSAPP_MX_STORE_2_NORTH_WABA_ID": "102290129340398",
            "WHATSAPP_MX_STORE_2_NORTH_TOKEN": "secret",
        }
    )
    assert [(account.country_id, account.account_id) for account in accounts] == [("MX", "store-2-north")]
    assert problems == []


@pytest.mark.parametrize(
    ("change", "kept", "problem"),
    [
        ({"PHONE_NUMBER_ID": None}, False, "WHATSAPP_MX_MAIN_PHONE_NUMBER_ID is missing"),
        ({"PHONE_NUMBER_ID": "+525550001111"}, False, "WHATSAPP_MX_MAIN_PHONE_NUMBER_ID must be an id of digits only"),
        ({"WABA_ID": " "}, False, "WHATSAPP_MX_MAIN_WABA_ID is missing"),
        ({"WABA_ID": "my-waba"}, False, "WHATSAPP_MX_MAIN_WABA_ID must be an id of digits only"),
        ({"TOKEN": None}, True, "WHATSAPP_MX_MAIN_TOKEN is missing: this account can receive but not send"),
        ({"TOKEN": " , "}, True, "WHATSAPP_MX_MAIN_TOKEN is missing: this account can receive but not send"),
        (
            {"TOKEN": "Bearer secret"},
            True,
            "WHATSAPP_MX_MAIN_TOKEN contains a space or another character no token has",
        ),
    ],
)
def test_a_problem_names_the_variable_and_no_value(change: dict[str, str | None], kept: bool, problem: str) -> None:
    environment = dict(ENVIRONMENT)
    for part, value in change.items():
        environment.pop(f"WHATSAPP_MX_MAIN_{part}")
        if value is not None:
            environment[f"WHATSAPP_MX_MAIN_{part}"] = value
    accounts, problems = read_accounts(environment)
    assert problems == [problem]
    assert [account.tokens for account in accounts] == ([()] if kept else [])


def test_a_misspelt_variable_is_reported() -> None:
    accounts, problems = read_accounts(ENVIRONMENT | {"WHATSAPP_MX_MAIN_TOKENS": "secret"})
    assert accounts == [MAIN]
    assert problems == [
        "WHATSAPP_MX_MAIN_TOKENS is not understood: expected WHATSAPP_<COUNTRY>_<ACCOUNT>_ followed by "
        "PHONE_NUMBER_ID, WABA_ID, TOKEN or PHONE_NUMBER"
    ]


def test_the_country_of_the_unroutable_is_taken() -> None:
    environment = {name.replace("_MX_", "_ZZ_"): value for name, value in ENVIRONMENT.items()}
    accounts, problems = read_accounts(environment)
    assert accounts == []
    assert problems == ["WHATSAPP_ZZ_MAIN_… uses country ZZ, which is kept for events nobody can be routed to"]


def test_a_number_claimed_by_two_countries_belongs_to_neither() -> None:
    other = {name.replace("_MX_", "_CO_"): value for name, value in ENVIRONMENT.items() if "_MX_" in name}
    accounts, problems = read_accounts(ENVIRONMENT | other)
    assert accounts == []
    assert problems == ["CO/main and MX/main have the same PHONE_NUMBER_ID: none of them is used"]
