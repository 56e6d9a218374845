"""Contenders run in processes of their own: start, wait until ready, say go, read one line of JSON."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from tests.graph.process import die_with_parent

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """A child that reads its job from stdin, prints `ready`, waits for a line, and prints its figures."""

    def __init__(self, module: str, job: Mapping[str, Any], env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._say(orjson.dumps(job))
        self._hear()

    def go(self) -> dict[str, float]:
        """Let it run; returns its figures."""
        self._say(b"go")
        figures: dict[str, float] = orjson.loads(self._hear())
        return figures

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _say(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def _hear(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a contender ended early, with exit code {self._process.wait(10)}")
        return line


def job() -> Any:
    """The child's side: the job it was given."""
    return orjson.loads(sys.stdin.buffer.readline())


def ready() -> None:
    """The child's side: say ready and wait for go. From then on it ends with its parent."""
    print("ready", flush=True)
    sys.stdin.buffer.readline()
    die_with_parent()


def answer(figures: Mapping[str, float]) -> None:
    """The child's side: the figures."""
    print(orjson.dumps(figures).decode(), flush=True)
