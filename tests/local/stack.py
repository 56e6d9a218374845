"""The whole local stack: Postgres with our migrations, Supabase Lite, and our functions, on one URL."""

import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import jwt

from tests.local import lite, migrations, postgres, processes

ROOT = Path(__file__).parents[2]
FUNCTIONS = "functions.serve:app"
OURS = ("WHATSAPP_", "META_", "SUPABASE_")
"""How the names of the product's own variables begin."""


@dataclass(frozen=True)
class Stack:
    """Where a running stack answers and what opens it.

    `url` is the base URL for an official client: REST, Auth and functions; without functions it is `rest_url`,
    which is Supabase Lite alone. `database_url` connects as `postgres`, the owner of our tables, who is no superuser
    (as on hosted); `admin_url` connects as the superuser. `postgres` and `lite` can be crashed and started again.
    """

    url: str
    rest_url: str
    database_url: str
    admin_url: str
    publishable_key: str
    secret_key: str
    jwt_secret: str
    data_dir: Path
    postgres: postgres.Postgres
    lite: lite.Lite
    direct: bool = False

    def env(self) -> dict[str, str]:
        """The environment the functions need to find this stack."""
        direct = {"SUPABASE_DB_URL": self.database_url} if self.direct else {}
        return direct | {
            "SUPABASE_URL": self.rest_url,
            "SUPABASE_PUBLISHABLE_KEY": self.publishable_key,
            "SUPABASE_SECRET_KEY": self.secret_key,
            "SUPABASE_JWT_SECRET": self.jwt_secret,
        }


@contextmanager
def running_stack(
    data_dir: Path | None = None,
    version: int = 16,
    *,
    functions: str | None = FUNCTIONS,
    functions_env: Mapping[str, str] | None = None,
    durable: bool = False,
    connections: int = 10,
    ports: Mapping[str, int] | None = None,
    reload: bool = False,
    supabase: Path = migrations.SUPABASE,
    direct: bool = False,
) -> Iterator[Stack]:
    """Start everything, apply the migrations, stop everything at the end, even when this process is killed.

    Without `data_dir` a temporary one is used and removed. `functions` is the import string of the ASGI app served
    beside the APIs, or None for none; it runs in its own process with `functions_env` and the stack's own variables,
    and sees no other variable of the product, from the environment or from `.env`.
    `durable` turns fsync on: for measurements, and for any proof about crashes. `connections` is the pool of Lite.
    `ports` may fix "postgres", "lite" and "gateway", else free ones are taken. `reload`: the functions are loaded
    anew when their code changes. `direct`: the verbs go straight to Postgres.
    """
    with ExitStack() as cleanup:
        directory = (data_dir or _temporary_directory(cleanup)).resolve()
        fixed = ports or {}
        database = postgres.start(directory, version, durable=durable, port=fixed.get("postgres"))
        cleanup.callback(database.stop)
        migrations.prepare(database)
        keys = lite.keys_of(directory)
        api_url = database.url(migrations.API_ROLE)
        api = lite.start(directory, api_url, keys, connections=connections, port=fixed.get("lite"))
        cleanup.callback(api.stop)
        migrations.migrate(database, supabase)
        port = fixed.get("gateway") or processes.free_port()
        stack = Stack(
            url=f"http://127.0.0.1:{port}" if functions else api.url,
            rest_url=api.url,
            database_url=database.url(),
            admin_url=database.url(postgres.ADMIN),
            publishable_key=keys.publishable_key,
            secret_key=keys.secret_key,
            jwt_secret=keys.jwt_secret,
            data_dir=directory,
            postgres=database,
            lite=api,
            direct=direct,
        )
        if functions:
            cleanup.callback(start_functions(stack, functions, port, functions_env or {}, reload=reload).stop)
        yield stack


def mint_jwt(
    stack: Stack, user_id: str | uuid.UUID, email: str = "", *, lifetime: float = 3600, **claims: object
) -> str:
    """A user's access token with the claims hosted Auth gives; `lifetime` in seconds, negative: expired."""
    now = int(time.time())
    payload: dict[str, object] = {
        "iss": f"{stack.rest_url}/auth/v1",
        "aud": "authenticated",
        "role": "authenticated",
        "sub": str(user_id),
        "email": email,
        "phone": "",
        "session_id": str(uuid.uuid4()),
        "aal": "aal1",
        "is_anonymous": False,
        "iat": now,
        "exp": int(now + lifetime),
    }
    return jwt.encode(payload | claims, stack.jwt_secret, algorithm="HS256")


def sign_up(stack: Stack, email: str, password: str) -> tuple[str, str]:
    """Create a user through the Auth API, or sign in the one there is; returns (user id, access token)."""
    with httpx.Client(
        base_url=f"{stack.rest_url}/auth/v1",
        headers={"apikey": stack.publishable_key},
        timeout=60,
        trust_env=False,
    ) as client:
        credentials = {"email": email, "password": password}
        answer = client.post("/signup", json=credentials)
        if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            answer = client.post("/token?grant_type=password", json=credentials)
        answer.raise_for_status()
        session = answer.json()
    return session["user"]["id"], session["access_token"]


def clean_environment() -> dict[str, str]:
    """This process's environment without the product's own variables, and `.env` switched off.

    A child process that a test starts must never meet a developer's real accounts.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return inherited | {"WHATSAPP_DOTENV": "off"}


def _temporary_directory(cleanup: ExitStack) -> Path:
    directory = Path(tempfile.mkdtemp(prefix="supabase-"))
    processes.remove_folder_at_exit(directory)
    cleanup.callback(shutil.rmtree, directory, ignore_errors=True)
    return directory


def start_functions(
    stack: Stack, functions: str, port: int, extra: Mapping[str, str], *, reload: bool = False
) -> processes.Child:
    """The functions of a running stack, in a process of their own whose environment has `extra`."""
    command = [sys.executable, "-m", "uvicorn", "--factory", "tests.local.gateway:app", "--no-access-log"]
    if reload:
        command += ["--reload", "--reload-dir", "functions", "--reload-dir", "services"]
        command += ["--timeout-graceful-shutdown", "3"]
    child = processes.spawn(
        "functions",
        [*command, "--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop", "--http", "httptools"],
        stack.data_dir / "functions.log",
        env=clean_environment() | stack.env() | {"FUNCTIONS_APP": functions} | dict(extra),
        cwd=ROOT,
    )
    try:
        child.wait_until(lambda: _answers(f"http://127.0.0.1:{port}"))
    except BaseException:
        child.stop()
        raise
    return child


def _answers(url: str) -> bool:
    try:
        httpx.get(url, trust_env=False)
    except httpx.TransportError:
        return False
    return True
