"""What a running `make dev` tells the other commands: where it answers, and the environment of its functions."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import orjson

from services.whatsapp.directory import Directory, read_accounts

DATA = Path(".local/dev")
"""The folder of the development stack, below the project's root. Git does not know it."""


@dataclass(frozen=True)
class Running:
    """`env` holds secrets: the file is its owner's only, and goes with the stack."""

    url: str
    env: Mapping[str, str]

    @property
    def app_secret(self) -> str:
        return self.env["WHATSAPP_APP_SECRET"].partition(",")[0]

    def directory(self) -> Directory:
        return Directory(read_accounts(self.env)[0])

    def write(self, folder: Path = DATA) -> Path:
        path = folder / "running.json"
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(orjson.dumps(asdict(self)))
        return path

    @classmethod
    def read(cls, folder: Path = DATA) -> Self | None:
        """What runs there, or None."""
        try:
            found = orjson.loads((folder / "running.json").read_bytes())
        except FileNotFoundError:
            return None
        return cls(found["url"], found["env"])
