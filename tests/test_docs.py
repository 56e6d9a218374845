"""The documentation is true to the code: variables, open ends, tables, states, error codes, commands, links."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.whatsapp.meta.errors import TABLE, Disposition, Effect, lookup
from services.whatsapp.settings import Settings

ROOT = Path(__file__).parents[1]
README, WHATSAPP, ARCHITECTURE = ROOT / "README.md", ROOT / "docs" / "whatsapp.md", ROOT / "docs" / "architecture.md"
CAMPAIGNS, UPGRADING = ROOT / "docs" / "campaigns.md", ROOT / "docs" / "upgrading.md"
DOCUMENTS = [pytest.param(path, id=path.name) for path in (README, WHATSAPP, ARCHITECTURE, CAMPAIGNS, UPGRADING)]
CODE = ("functions", "services", "supabase")
REQUIRED = {"SUPABASE_URL": "https://project.example", "SUPABASE_SECRET_KEY": "sb_secret_of_nobody"}


# ── Variables ─────────────────────────────────────────────────────────────────────────────────────


class Asked(dict[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, values: dict[str, str]) -> None:
        super().__init__(values)
        self.names: set[str] = set()

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
        self.names.add(name)
        return super().get(name, default)


def listed_variables() -> dict[str, str]:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    return dict(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=(.*)$", text, re.MULTILINE))


def test_env_example_lists_what_the_settings_read() -> None:
    environ = Asked(REQUIRED)
    Settings.read(environ)
    of_accounts = {f"WHATSAPP_MX_MAIN_{part}" for part in ("PHONE_NUMBER_ID", "WABA_ID", "TOKEN", "PHONE_NUMBER")}
    assert set(listed_variables()) == environ.names | of_accounts | {"WHATSAPP_DOTENV"}


def test_env_example_shows_the_defaults() -> None:
    shown = {name: value for name, value in listed_variables().items() if value}
    assert shown, "no default is shown"
    with_them, without = (Settings.read(REQUIRED | more) for more in (shown, {}))
    names = set(Settings.__slots__) - {"directory"}
    assert {name: getattr(with_them, name) for name in names} == {name: getattr(without, name) for name in names}


# ── Open ends ─────────────────────────────────────────────────────────────────────────────────────


def todos() -> Iterator[tuple[str, str]]:
    """(file, first sentence) of each TODO in the code, as docs/whatsapp.md lists them."""
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".sql", ".toml"):
                text = path.read_text(encoding="utf-8")
                for start in re.finditer(r"TODO:\s*", text):
                    yield path.relative_to(ROOT).as_posix(), _sentence(text[start.end() :])


def _sentence(text: str) -> str:
    lines = re.split(r"\n(?!\s*(?:#|--|\w))", text, maxsplit=1)[0]
    words = re.sub(r"\s*\n\s*(?:#|--)?\s*", " ", lines)
    return re.split(r"\.(?:\s|$)", words, maxsplit=1)[0].strip(' "')


def test_every_todo_is_documented() -> None:
    lines = [line for line in WHATSAPP.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    missing = [(path, words) for path, words in todos() if f"| `{path}` | {words} |" not in lines]
    assert not missing, f"docs/whatsapp.md, 'Marked in the code', lacks: {missing}"


def test_every_documented_todo_is_in_the_code() -> None:
    section = WHATSAPP.read_text(encoding="utf-8").partition("Marked in the code:")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\S+)` \| (.+) \|$", section, re.MULTILINE)
    assert listed
    assert set(listed) <= set(todos())


# ── Names ─────────────────────────────────────────────────────────────────────────────────────────


def test_readme_names_every_door() -> None:
    functions = sorted(path.parent for path in (ROOT / "functions").glob("*/main.py"))
    assert functions
    text = README.read_text(encoding="utf-8")
    missing = [function.name for function in functions if f"`functions/{function.name}`" not in text]
    assert not missing


def test_whatsapp_describes_every_door() -> None:
    functions = {path.parent.name.replace("_", "-") for path in (ROOT / "functions").glob("*/main.py")}
    assert functions <= set(re.findall(r"^### (.+)$", WHATSAPP.read_text(encoding="utf-8"), re.MULTILINE))


def test_architecture_names_every_table() -> None:
    tables = set(re.findall(r"create table (?:if not exists )?whatsapp\.(\w+)", _sql()))
    assert tables
    text = ARCHITECTURE.read_text(encoding="utf-8")
    assert not {table for table in tables if f"`{table}`" not in text}


def _sql() -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "supabase" / "schemas").rglob("*.sql")))


def test_every_state_is_explained() -> None:
    states = set(
        re.findall(r"'(\w+)'", _sql().partition("state text not null check (state in (\n")[2].partition("))")[0])
    )
    assert "received" in states
    section = WHATSAPP.read_text(encoding="utf-8").partition("\n## States\n")[2].partition("\n## ")[0]
    explained = {
        name for row in re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE) for name in re.findall(r"\w+", row)
    }
    assert explained == states


# ── Meta's errors ─────────────────────────────────────────────────────────────────────────────────


def test_the_table_of_metas_errors_is_the_one_in_the_code() -> None:
    text = WHATSAPP.read_text(encoding="utf-8")
    rows = text.partition("<!-- meta-errors:begin -->")[2].partition("<!-- meta-errors:end -->")[0]
    listed = set()
    for disposition, effect, codes in re.findall(
        r"^\| `(\w+)`.* \| (?:`(\w+)`)?.* \| ([\d, ]+) \|$", rows, re.MULTILINE
    ):
        for code in map(int, codes.split(", ")):
            row = lookup(code)
            assert (row.disposition, row.effect) == (Disposition(disposition), Effect(effect or "none")), code
            listed.add(code)
    plain = (Disposition.PERMANENT, Effect.NONE)
    assert listed == {code for code, row in TABLE.items() if (row.disposition, row.effect) != plain}


# ── Commands and links ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", DOCUMENTS)
def test_make_commands_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = set(re.findall(r"(?:`|^)make ([a-z]+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert commands <= targets


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_resolve(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    assert links
    broken = [link for link in links if not link.startswith("https://") and not _resolves(path, link)]
    assert not broken


def _resolves(path: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = (path.parent / name) if name else path
    return target.exists() and (not anchor or anchor in _anchors(target))


def _anchors(path: Path) -> set[str]:
    """As GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS)
def test_no_path_of_a_machine_is_shown(path: Path) -> None:
    assert not re.search(r"(?<![\w.])/(?:home|root|tmp|work|Users)/", path.read_text(encoding="utf-8"))
