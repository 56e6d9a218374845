"""Child processes that never outlive the process that started them, even when that one is killed.

`PR_SET_PDEATHSIG` is Linux only and `atexit` does not run on SIGKILL, so a small keeper process holds the read end
of a pipe: when the pipe closes, for whatever reason, it signals every child still listed and removes the listed
folders.
"""

import atexit
import contextlib
import functools
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_KEEPER = """
import os, shutil, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
children, folders = {}, []
for line in sys.stdin:
    verb, value, *rest = line.rstrip("\\n").split("\\t")
    if verb == "add":
        children[int(value)] = int(rest[0])
    elif verb == "forget":
        children.pop(int(value), None)
    elif verb == "remove":
        folders.append(value)
def deliver(pid, number):
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
for pid in reversed(children):
    deliver(pid, children[pid])
deadline = time.monotonic() + 5
while time.monotonic() < deadline and any([deliver(pid, 0) for pid in children]):
    time.sleep(0.02)
for pid in children:
    deliver(pid, signal.SIGKILL)
for folder in folders:
    shutil.rmtree(folder, ignore_errors=True)
"""


@dataclass
class Child:
    """A running child process, leader of its own process group."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    stop_signal: signal.Signals

    def stop(self, timeout: float = 10) -> None:
        """Ask politely, wait `timeout` seconds, then kill the whole group. Safe to repeat."""
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        _tell_keeper("forget", str(self.process.pid))

    def kill(self) -> None:
        """End it as a crash would, with every process it started, and wait until all of them are gone."""
        family = [self.process.pid, *descendants(self.process.pid)]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        while any(is_alive(pid) for pid in family):
            time.sleep(0.01)
        _tell_keeper("forget", str(self.process.pid))

    def wait_until(self, ready: Callable[[], bool], timeout: float = 30) -> None:
        """Poll `ready` until it is true; RuntimeError with the end of the log if the child exits or time is up."""
        deadline = time.monotonic() + timeout
        while not ready():
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} exited with {self.process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} was not ready within {timeout:.0f} s:\n{self.log_tail()}")
            time.sleep(0.01)

    def log_tail(self, characters: int = 4000) -> str:
        """The end of what the child printed."""
        return self.log.read_text(errors="replace")[-characters:]


def spawn(
    name: str,
    command: Sequence[str | Path],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: tuple[int, int] | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Start `command` in its own process group, output appended to `log`; `user` is (uid, gid), for root only.

    `pass_fds` stay open in the child, under the same numbers.
    """
    log.touch(mode=0o600)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            cwd=cwd,
            user=None if user is None else user[0],
            group=None if user is None else user[1],
            extra_groups=None if user is None else [],
            start_new_session=True,
            pass_fds=pass_fds,
        )
    _tell_keeper("add", str(process.pid), str(int(stop_signal)))
    return Child(name, process, log, stop_signal)


def remove_folder_at_exit(folder: Path) -> None:
    """Have `folder` removed once this process is gone and its children are stopped."""
    _tell_keeper("remove", str(folder))


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on.

    It lies below those that systems give to outgoing connections, so that none takes it while its server is not up
    yet, or down for a moment; and it is drawn, so that others who ask at the same time get another.
    """
    while not is_free(port := 10_000 + secrets.randbelow(22_000)):
        pass
    return port


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def descendants(pid: int) -> list[int]:
    """The processes that `pid` started, and those that these started."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], check=True, capture_output=True, text=True).stdout
    children: dict[int, list[int]] = {}
    for line in table.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    waiting = [pid]
    while waiting:
        new = children.get(waiting.pop(), [])
        found += new
        waiting += new
    return found


def is_alive(pid: int) -> bool:
    """Whether there is such a process; one that has ended and that nobody has waited for yet does not count."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], check=False, capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


@functools.cache
def _keeper_of(_pid: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-I", "-S", "-c", _KEEPER]
    keeper = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
    atexit.register(keeper.communicate)
    return keeper


def _tell_keeper(*words: str) -> None:
    pipe = _keeper_of(os.getpid()).stdin
    assert pipe is not None
    pipe.write("\t".join(words) + "\n")
    pipe.flush()
