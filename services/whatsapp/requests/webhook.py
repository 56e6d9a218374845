"""What Meta asks `webhook` by GET. No model of pydantic's: that function answers before it could be imported."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

PREFIX = "hub."


@dataclass(frozen=True, slots=True)
class Handshake:
    """Meta's verification of the callback URL; each stands in the query as `hub.…`."""

    mode: str = ""
    verify_token: str = ""
    challenge: str = ""

    @classmethod
    def read(cls, query: Mapping[str, str]) -> Self:
        """Whatever else Meta asks along is left out."""
        return cls(**{name: query.get(PREFIX + name, "") for name in cls.__slots__})
