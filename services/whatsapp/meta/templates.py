"""A template's contract: what must be supplied to send it, derived from its components as Meta lists them.

A contract is plain JSON, so that it can be stored beside the template and a frontend can draw a form from it:

    {"parameters": [{"key": "body.1", "type": "text", "required": true, "max": 1024, "example": "Ana"}, …]}
    {"unsupported": "why"}       a component this code does not know: nobody can say what it needs, so it is not sent

Keys name the place: `header.1`, `header.image`, `body.2`, `body.first_name`, `buttons.0.url`, `cards.1.body.1`,
`voice_call` (the one button without a place), and `code` for the one-time password that Meta wants in the body and in
the button. `check` holds the components of a message against a contract, `fill` makes components from values by key.
Source: M:templates/overview.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NotRequired, TypedDict, final

Component = dict[str, Any]
"""A component as Meta lists it, or as it is sent to Meta."""


class Parameter(TypedDict):
    """One thing that must be supplied, or may be."""

    key: str
    type: str
    required: bool
    max: NotRequired[int]
    example: NotRequired[str]


@final
class Known(TypedDict):
    parameters: list[Parameter]


@final
class Unsupported(TypedDict):
    unsupported: str


Contract = Known | Unsupported

CODE = "code"
CALL = "voice_call"
_VARIABLE = re.compile(r"\{\{\s*([A-Za-z0-9_]+)\s*\}\}")
_MEDIA = {"IMAGE": "image", "VIDEO": "video", "DOCUMENT": "document"}
_OBJECTS = {"LOCATION": "location", "PRODUCT": "product"}
_COMPONENTS_WITHOUT_PARAMETERS = frozenset({"FOOTER", "CALL_PERMISSION_REQUEST"})
_BUTTONS_WITHOUT_PARAMETERS = frozenset({"PHONE_NUMBER", "REQUEST_CONTACT_INFO", "SPM"})
_TEXT_MAX = 1024
_HEADER_MAX = 60
_URL_MAX = 2000
_PAYLOAD_MAX = 256
_COUPON_MAX = 15
_CODE_MAX = 15
_BAD_TEXT = re.compile(r"[\n\r\t]| {5}")


class InvalidParameters(ValueError):
    """Parameters do not fit the contract: `field` is the key, `reason` what is wrong with it."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class _Unsupported(Exception):
    pass


# ── Deriving ──────────────────────────────────────────────────────────────────────────────────────


def contract_of(components: object, category: str | None) -> Contract:
    """The contract of a template. Total: what cannot be understood is `unsupported`, never an error."""
    if not isinstance(components, list):
        return {"unsupported": "Meta listed no components"}
    try:
        if category == "AUTHENTICATION":
            return {"parameters": [_parameter(CODE, "code", _CODE_MAX)]}
        return {"parameters": list(_parameters(components, ""))}
    except _Unsupported as error:
        return {"unsupported": str(error)}
    except (AttributeError, TypeError):
        return {"unsupported": "Meta listed components of an unknown shape"}


def _parameters(components: Sequence[Component], prefix: str) -> Iterator[Parameter]:
    for component in components:
        kind = _kind(component)
        if kind == "HEADER":
            yield from _header(component, prefix)
        elif kind == "BODY":
            yield from _texts(component, f"{prefix}body", "body_text", _TEXT_MAX)
        elif kind == "BUTTONS":
            for index, button in enumerate(component.get("buttons") or []):
                yield from _button(button, f"{prefix}buttons.{index}")
        elif kind == "LIMITED_TIME_OFFER":
            if (component.get("limited_time_offer") or {}).get("has_expiration"):
                yield _parameter(f"{prefix}limited_time_offer", "expiration_ms")
        elif kind == "CAROUSEL":
            for index, card in enumerate(component.get("cards") or []):
                yield from _parameters(card.get("components") or [], f"{prefix}cards.{index}.")
        elif kind not in _COMPONENTS_WITHOUT_PARAMETERS:
            raise _Unsupported(f"component {kind} is not known")


def _kind(part: object) -> str | None:
    """The type of a component or button: Meta writes most in capitals and some (voice_call) not."""
    kind = part.get("type") if isinstance(part, dict) else None
    return kind.upper() if isinstance(kind, str) else None


def _header(component: Component, prefix: str) -> Iterator[Parameter]:
    form = component.get("format", "TEXT")
    if form == "TEXT":
        yield from _texts(component, f"{prefix}header", "header_text", _HEADER_MAX)
    elif form in _MEDIA or form in _OBJECTS:
        kind = _MEDIA.get(form) or _OBJECTS[form]
        yield _parameter(f"{prefix}header.{kind}", kind)
    else:
        raise _Unsupported(f"header format {form} is not known")


def _texts(component: Component, prefix: str, example_name: str, longest: int) -> Iterator[Parameter]:
    names = list(dict.fromkeys(_VARIABLE.findall(str(component.get("text", "")))))
    if all(name.isdigit() for name in names):
        # Meta fills {{1}}, {{2}}… in the order of the numbers, wherever they stand in the text.
        names.sort(key=int)
    examples = _examples(component.get("example"), example_name)
    for position, name in enumerate(names):
        example = examples.get(name) or examples.get(str(position + 1))
        yield _parameter(f"{prefix}.{name}", "text", longest, example=example)


def _examples(example: object, name: str) -> dict[str, str]:
    """Meta's examples by variable: a list (of lists, for a body) by position, or named ones by name."""
    if not isinstance(example, dict):
        return {}
    named = example.get(f"{name}_named_params")
    if isinstance(named, list):
        return {str(each.get("param_name")): str(each.get("example")) for each in named if isinstance(each, dict)}
    values = example.get(name)
    if isinstance(values, list) and values and isinstance(values[0], list):
        values = values[0]
    return {str(n): str(value) for n, value in enumerate(values, 1)} if isinstance(values, list) else {}


def _button(button: object, prefix: str) -> Iterator[Parameter]:
    kind = _kind(button)
    if kind == "URL":
        assert isinstance(button, dict)  # noqa: S101 - for the type checker: only a dict has a type
        if _VARIABLE.search(str(button.get("url", ""))):
            yield _parameter(f"{prefix}.url", "text", _URL_MAX)
    elif kind == "QUICK_REPLY":
        yield _parameter(f"{prefix}.payload", "payload", _PAYLOAD_MAX, required=False)
    elif kind == "COPY_CODE":
        yield _parameter(f"{prefix}.coupon_code", "coupon_code", _COUPON_MAX)
    elif kind == "FLOW":
        yield _parameter(f"{prefix}.flow", "action", required=False)
    elif kind == "CATALOG":
        yield _parameter(f"{prefix}.catalog", "action", required=False)
    elif kind == "MPM":
        yield _parameter(f"{prefix}.products", "action")
    elif kind == "VOICE_CALL":
        yield _parameter(CALL, "voice_call", required=False)
    elif kind not in _BUTTONS_WITHOUT_PARAMETERS:
        raise _Unsupported(f"button {kind} is not known")


def _parameter(
    key: str, kind: str, longest: int | None = None, *, required: bool = True, example: str | None = None
) -> Parameter:
    parameter: Parameter = {"key": key, "type": kind, "required": required}
    if longest:
        parameter["max"] = longest
    if example:
        parameter["example"] = example
    return parameter


# ── Checking ──────────────────────────────────────────────────────────────────────────────────────


def check(contract: Contract, components: Sequence[Component] | None) -> InvalidParameters | None:
    """What is wrong with the components of a message, as `messages` accepts them; None if they fit the contract."""
    if "unsupported" in contract:
        return InvalidParameters("message.template", str(contract["unsupported"]))
    try:
        given = dict(_given(components or [], ""))
    except InvalidParameters as error:
        return error
    known = {parameter["key"]: parameter for parameter in contract["parameters"]}
    if CODE in known:
        return _check_code(known[CODE], given)
    for key, parameter in known.items():
        if key not in given and parameter["required"]:
            return InvalidParameters(f"message.template.{key}", "the template needs it")
    for key, value in given.items():
        if key not in known:
            return InvalidParameters(f"message.template.{key}", "the template has no such parameter")
        reason = _too_long(known[key], value)
        if reason:
            return InvalidParameters(f"message.template.{key}", reason)
    return None


def _check_code(parameter: Parameter, given: Mapping[str, object]) -> InvalidParameters | None:
    """A one-time password stands twice: in the body and in its button. Source: M:templates/authentication-templates."""
    if set(given) != {"body.1", "buttons.0.url"}:
        return InvalidParameters(
            "message.template.code", "the code belongs in the body and in the url button 0, and nothing else"
        )
    if given["body.1"] != given["buttons.0.url"]:
        return InvalidParameters("message.template.code", "the code in the body and in the button differ")
    reason = _too_long(parameter, given["body.1"])
    return InvalidParameters("message.template.code", reason) if reason else None


def _given(components: Sequence[Component], prefix: str) -> Iterator[tuple[str, object]]:
    """What a message supplies, by the contract's keys."""
    for component in components:
        kind = component["type"]
        parameters = component.get("parameters") or []
        if kind in ("header", "body"):
            for position, parameter in enumerate(parameters, 1):
                name = parameter.get("parameter_name") or str(position)
                textual = parameter["type"] in ("text", "currency", "date_time")
                yield f"{prefix}{kind}.{name if textual else parameter['type']}", parameter.get(parameter["type"])
        elif kind == "button":
            yield from _given_button(component, parameters, f"{prefix}buttons.{int(component.get('index') or 0)}")
        elif kind == "limited_time_offer":
            yield f"{prefix}limited_time_offer", parameters[0]["limited_time_offer"]["expiration_time_ms"]
        elif kind == "carousel":
            for card in component["cards"]:
                yield from _given(card["components"], f"{prefix}cards.{card['card_index']}.")


_BUTTON_KEYS = {
    "url": "url",
    "quick_reply": "payload",
    "copy_code": "coupon_code",
    "flow": "flow",
    "catalog": "catalog",
    "mpm": "products",
}


def _given_button(component: Component, parameters: Sequence[Component], prefix: str) -> Iterator[tuple[str, object]]:
    kind = component["sub_type"].lower()
    if kind == CALL:
        if parameters:
            yield CALL, {parameter["type"]: parameter[parameter["type"]] for parameter in parameters}
        return
    if kind not in _BUTTON_KEYS:
        raise InvalidParameters(f"message.template.{prefix}", f"a {kind} button cannot be checked")
    if parameters:
        parameter = parameters[0]
        yield f"{prefix}.{_BUTTON_KEYS[kind]}", parameter.get(parameter["type"])


def _too_long(parameter: Parameter, value: object) -> str | None:
    longest = parameter.get("max")
    if longest and isinstance(value, str) and len(value) > longest:
        return f"it has {len(value)} characters; {longest} are allowed"
    return None


# ── Filling ───────────────────────────────────────────────────────────────────────────────────────


def fill(contract: Contract, values: Mapping[str, object]) -> list[Component]:
    """Meta's components with `values` by the contract's keys. A media header takes a link, or {"id"} or {"link"}.

    Raises InvalidParameters for a value that is missing, unknown or malformed.
    """
    if "unsupported" in contract:
        raise InvalidParameters("template", str(contract["unsupported"]))
    known = {parameter["key"]: parameter for parameter in contract["parameters"]}
    for key in values:
        if key not in known:
            raise InvalidParameters(key, "the template has no such parameter")
    filled: dict[str, object] = {}
    for key, parameter in known.items():
        value = values.get(key)
        if value is None or value == "":
            if parameter["required"]:
                raise InvalidParameters(key, "the template needs it")
            continue
        filled[key] = _value(parameter, value)
    if CODE in filled:
        filled = {"body.1": filled[CODE], "buttons.0.url": filled[CODE]}
    return _components(filled)


def texts(contract: Contract) -> frozenset[str]:
    """Keys of the texts of which nothing is asked but what `fill` looks at itself."""
    return frozenset(
        parameter["key"]
        for parameter in ([] if "unsupported" in contract else contract["parameters"])
        if parameter["type"] == "text"
        and 0 < parameter.get("max", 0) <= (_URL_MAX if parameter["key"].endswith(".url") else _TEXT_MAX)
    )


def _value(parameter: Parameter, value: object) -> object:
    """The value as Meta takes it, or InvalidParameters."""
    key, kind = parameter["key"], parameter["type"]
    if kind in ("text", "payload", "coupon_code", "code"):
        if not isinstance(value, str):
            raise InvalidParameters(key, "it must be a text")
        if not value.strip():
            raise InvalidParameters(key, "it must not be blank")
        if kind == "text" and _BAD_TEXT.search(value):
            raise InvalidParameters(key, "it must not hold a line break, a tab or more than four spaces in a row")
        reason = _too_long(parameter, value)
        if reason:
            raise InvalidParameters(key, reason)
        return value
    if kind in _MEDIA.values():
        return _media(key, value)
    if kind == "expiration_ms":
        return _milliseconds(key, value)
    if not isinstance(value, Mapping):
        raise InvalidParameters(key, "it must be an object, as Meta defines it")
    return dict(value)


def _milliseconds(key: str, value: object) -> int:
    try:
        if isinstance(value, int | float | str):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise InvalidParameters(key, "it must be a time in milliseconds")


def _media(key: str, value: object) -> Component:
    if isinstance(value, str):
        value = {"link": value}
    if not isinstance(value, Mapping) or ("id" in value) == ("link" in value):
        raise InvalidParameters(key, "it must be a link, or an object with either id or link")
    link = value.get("link")
    if link is not None and not (isinstance(link, str) and link.startswith(("https://", "http://"))):
        raise InvalidParameters(key, "its link must begin with https://")
    return dict(value)


def _components(filled: Mapping[str, object]) -> list[Component]:
    """Components from flat keys. The keys of a card are those of a template, below `cards.<n>.`."""
    components: list[Component] = []
    cards: dict[int, dict[str, object]] = {}
    texts: dict[str, list[Component]] = {}
    for key, value in filled.items():
        place, _, rest = key.partition(".")
        if place == "cards":
            index, _, rest = rest.partition(".")
            cards.setdefault(int(index), {})[rest] = value
        elif place in ("header", "body"):
            if place not in texts:
                texts[place] = []
                components.append({"type": place, "parameters": texts[place]})
            texts[place].append(_header_or_text(rest, value))
        elif place == "buttons":
            components.append(_filled_button(rest, value))
        elif place == CALL and isinstance(value, Mapping):
            call = [{"type": name, name: part} for name, part in value.items()]
            components.append({"type": "button", "sub_type": CALL, "parameters": call})
        elif place == "limited_time_offer":
            offer = {"type": place, place: {"expiration_time_ms": value}}
            components.append({"type": place, "parameters": [offer]})
    if cards:
        listed = [{"card_index": index, "components": _components(card)} for index, card in sorted(cards.items())]
        components.append({"type": "carousel", "cards": listed})
    return components


def _header_or_text(name: str, value: object) -> Component:
    if isinstance(value, str):
        return {"type": "text", "text": value} | ({} if name.isdigit() else {"parameter_name": name})
    return {"type": name, name: value}


def _filled_button(rest: str, value: object) -> Component:
    index, _, name = rest.partition(".")
    sub_type, kind = {
        "url": ("url", "text"),
        "payload": ("quick_reply", "payload"),
        "coupon_code": ("COPY_CODE", "coupon_code"),
        "flow": ("flow", "action"),
        "catalog": ("CATALOG", "action"),
        "products": ("mpm", "action"),
    }[name]
    return {"type": "button", "sub_type": sub_type, "index": index, "parameters": [{"type": kind, kind: value}]}
