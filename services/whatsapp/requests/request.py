"""What a request is: a model that reads what was sent, refuses it with the path of its fault, and describes itself.

One model is the one source of all three. A fault is a validation error whose type is one of our refusal codes. The
value is never repeated: it may be somebody's private message.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from services.whatsapp.refusals import RefusalError, describe, refuse


@dataclass(frozen=True, slots=True)
class Else:
    """With which code and reason a value is refused that does not fit the annotation before this."""

    code: str
    reason: str

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        fitting = handler(source)
        return core_schema.custom_error_schema(fitting, self.code, custom_error_message=self.reason)


def fault(code: str, reason: str = "", **names: str | int | None) -> PydanticCustomError:
    """The error a reader of a value raises: `names` fill the code's message, and `field` names a part of the value."""
    return PydanticCustomError(code, reason, names)


class Request(BaseModel):
    """A request's body, its query, or a row of it. What is not a field of it is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    null_is_missing: ClassVar[frozenset[str]] = frozenset({"country_id"})
    """Required fields of which null says that they were left out."""
    as_null: ClassVar[frozenset[str]] = frozenset()
    """Required fields that are refused, where they are left out, with the words in which null is."""
    elsewhere: ClassVar[Mapping[str, tuple[str, str | None]]] = {}
    """Fields of another request that people put into this one: the code and the reason they are refused with."""
    not_an_object: ClassVar[tuple[str, str, str] | None] = None
    """Of a row: the code, the field and the reason, where it is no object at all."""

    @classmethod
    def read(cls, given: object, context: Mapping[str, str] | None = None) -> Self:
        """Raises RefusalError for the first fault: a name that is not known, then one that is missing, then a value."""
        try:
            request: Self = cls.__pydantic_validator__.validate_python(given, context=context)
            return request
        except ValidationError as error:
            faults = error.errors(include_url=False)
        fault = faults[0] if len(faults) == 1 else min(faults, key=cls._rank)
        if fault["type"] == "missing" and fault["loc"][0] in cls.as_null and isinstance(given, dict):
            return cls.read({**given, fault["loc"][0]: None}, context)
        raise cls._refusal(fault)

    @classmethod
    def _rank(cls, fault: ErrorDetails) -> int:
        return {"extra_forbidden": 0, "missing": 1}.get(cls._kind(fault), 2)

    @classmethod
    def _kind(cls, fault: ErrorDetails) -> str:
        is_missing = fault["input"] is None and len(fault["loc"]) == 1 and fault["loc"][0] in cls.null_is_missing
        return "missing" if is_missing else fault["type"]

    @classmethod
    def _refusal(cls, fault: ErrorDetails) -> RefusalError:
        kind, names = cls._kind(fault), dict(fault.get("ctx", {}))
        field = names.pop("field", None) or _path(fault["loc"])
        if kind == "missing":
            return refuse("missing_field", field=field)
        if kind == "extra_forbidden":
            code, reason = cls.elsewhere.get(field, ("unknown_field", None))
            return refuse(code, field=field, reason=reason)
        if kind == "model_type" and cls.not_an_object is not None:
            code, field, reason = cls.not_an_object
            return refuse(code, field=field, reason=reason)
        if describe(kind) is not None:
            return refuse(kind, field=field, reason=fault["msg"] or None, **names)
        return refuse("invalid_field", field=field)


def _path(location: tuple[int | str, ...]) -> str:
    """`recipients[0].to` of ("recipients", 0, "to")."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return "".join(steps).removeprefix(".")
