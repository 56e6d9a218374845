"""A request that may be repeated: the same key and the same words give the same answer, and do nothing twice."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from pydantic import BeforeValidator, Field, StringConstraints

from services.whatsapp.requests import fingerprint
from services.whatsapp.requests.request import Else, Request, fault


def _given(value: object) -> object:
    if not value:
        raise fault("idempotency_key_missing")
    return value


class Headers(Request):
    """What a repeatable request says beside its body."""

    key: Annotated[
        str,
        StringConstraints(pattern=r"^[!-~]([ -~]{0,198}[!-~])?$", strict=True),
        Else("idempotency_key_invalid", ""),
        BeforeValidator(_given),
        Field(
            alias="Idempotency-Key",
            description="The caller's own: a new one for each new call, the same one when repeating a call.",
        ),
    ]


class Repeatable(Request):
    """Its `key` stands in a header, and its `fingerprint` tells a repeated call from a key that was used again."""

    _key: str
    _said: Mapping[str, object]

    apart: ClassVar[frozenset[str]] = frozenset()
    """Fields with fingerprints of their own."""

    @classmethod
    def read_with(cls, key: str | None, given: Mapping[str, object]) -> Self:
        """`key` is the header Idempotency-Key. Raises RefusalError."""
        request = cls.read(given)
        request._key = Headers.read({"Idempotency-Key": key}).key
        request._said = given
        return request

    @property
    def key(self) -> str:
        return self._key

    @property
    def fingerprint(self) -> str:
        """Of what was said, and not of what we read in it: that may change, and the call is still the same."""
        return fingerprint({name: value for name, value in self._said.items() if name not in self.apart})
