"""Templates of the stand-in for Meta (tests only): what is approved, and whether a message fits it.

Rules and codes: Meta, messages/template-messages and support/error-codes.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.graph.errors import Refused

VARIABLE = re.compile(r"\{\{\s*([A-Za-z0-9_]+)\s*\}\}")
FORBIDDEN = re.compile(r"[\n\t]| {5,}")
BODY_LIMIT = 1024
CODE_LIMIT = 15


@dataclass(slots=True)
class Template:
    """A template as `GET /{waba}/message_templates` shows it."""

    id: str
    name: str
    language: str
    category: str
    components: list[dict[str, Any]]
    status: str = "APPROVED"
    parameter_format: str = "POSITIONAL"
    quality_score: dict[str, Any] = field(default_factory=lambda: {"score": "GREEN"})
    rejected_reason: str = "NONE"

    def component(self, kind: str) -> dict[str, Any]:
        return next((one for one in self.components if one["type"] == kind), {})

    def check(self, sent: object, *, by_phone: bool) -> None:
        """Raise `Refused` as Meta would if this template may not go out, or not with these components."""
        if self.status == "PAUSED":
            raise Refused(132015, f"Template {self.name} ({self.language}) is paused due to low quality")
        if self.status == "DISABLED":
            raise Refused(132016, f"Template {self.name} ({self.language}) is disabled")
        if self.status != "APPROVED":
            raise unknown_template(self.name, self.language)
        if self.category == "AUTHENTICATION" and not by_phone:
            raise Refused(131062, "Authentication templates can only be sent to a phone number")
        parts = components(sent)
        self._check_header(parts.get(("header", ""), []))
        self._check_body(parts.get(("body", ""), []))
        self._check_buttons(parts)

    def _check_header(self, given: Sequence[dict[str, Any]]) -> None:
        header = self.component("HEADER")
        wanted = header.get("format", "TEXT")
        if wanted == "TEXT":
            self._check_texts("header", header.get("text", ""), given)
            return
        received = str(given[0].get("type", "unknown")).upper() if given else "UNKNOWN"
        if received != wanted:
            raise Refused(132012, f"header: Format mismatch, expected {wanted}, received {received}")
        media = given[0].get(received.lower())
        if not isinstance(media, dict) or (received != "LOCATION" and not (media.get("id") or media.get("link"))):
            raise Refused(132012, f"header: {received} needs an id or a link")

    def _check_body(self, given: Sequence[dict[str, Any]]) -> None:
        text = self.component("BODY").get("text", "")
        self._check_texts("body", text, given)
        grown = len(VARIABLE.sub("", text)) + sum(len(shown(one)) for one in given)
        if grown > BODY_LIMIT:
            raise Refused(132005, f"body: translated text has {grown} characters, at most {BODY_LIMIT} are allowed")
        if self.category == "AUTHENTICATION" and any(len(shown(one)) > CODE_LIMIT for one in given):
            raise Refused(132018, f"body: a code has at most {CODE_LIMIT} characters")

    def _check_texts(self, where: str, text: str, given: Sequence[dict[str, Any]]) -> None:
        wanted = VARIABLE.findall(text)
        if len(given) != len(wanted):
            numbers = f"number of localizable_params ({len(given)}) does not match the expected number"
            raise Refused(132000, f"{where}: {numbers} of params ({len(wanted)})")
        if self.parameter_format == "NAMED" and {one.get("parameter_name") for one in given} != set(wanted):
            raise Refused(132000, f"{where}: parameter names do not match the template's")
        for one in given:
            value = shown(one)
            if not value:
                raise Refused(131008, f"{where}: parameter of type text is missing text value")
            if FORBIDDEN.search(value):
                raise Refused(132018, f"{where}: text cannot have new-line/tab or more than 4 consecutive spaces")

    def _check_buttons(self, parts: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
        for index, button in enumerate(self.component("BUTTONS").get("buttons", ())):
            given = parts.get(("button", str(index)), [])
            if button["type"] in ("URL", "OTP"):
                wanted = 1 if button["type"] == "OTP" or VARIABLE.search(button.get("url", "")) else 0
                if wanted and not given:
                    raise Refused(131008, f"buttons: Button at index {index} of type Url requires a parameter")
                if len(given) != wanted:
                    raise Refused(132000, f"buttons: Button at index {index} takes {wanted} parameters")


def components(sent: object) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Parameters by (component type, button index) of a `template.components` array; `Refused` if
    misshapen."""
    if sent is None:
        return {}
    if not isinstance(sent, list) or not all(isinstance(one, dict) for one in sent):
        raise Refused(100, "Param template['components'] must be an array of objects.")
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in sent:
        kind = str(one.get("type", "")).lower()
        index = str(one.get("index", "")) if kind == "button" else ""
        parameters = one.get("parameters", [])
        if not isinstance(parameters, list) or not all(isinstance(given, dict) for given in parameters):
            raise Refused(100, f"Param template['components']['{kind}']['parameters'] must be an array of objects.")
        found[kind, index] = parameters
    return found


def shown(parameter: dict[str, Any]) -> str:
    """The text a parameter puts into the message."""
    kind = parameter.get("type")
    if kind in ("currency", "date_time"):
        value = parameter.get(kind)
        return str(value.get("fallback_value", "")) if isinstance(value, dict) else ""
    return str(parameter.get("text", ""))


def unknown_template(name: object, language: object) -> Refused:
    return Refused(132001, f"template name ({name}) does not exist in {language}")


def catalogue(new_id: Callable[[], str]) -> list[Template]:
    """One template of every kind the tests need, as `name (language)`: parameters.

    order_update (es_MX, es): body 2 · order_named (es_MX): body first_name, order_id · plain (es_MX): none ·
    tracking (es_MX): body 1, url button 0 · spring_offer (es_MX, marketing): image header, body 1, quick
    reply · login_code (es_MX, authentication): code in body and button 0 · paused, disabled, pending
    (es_MX): body 1.
    """

    def body(text: str, *example: str) -> dict[str, Any]:
        return {"type": "BODY", "text": text} | ({"example": {"body_text": [list(example)]}} if example else {})

    def make(name: str, *parts: dict[str, Any], language: str = "es_MX", **other: Any) -> Template:
        settings = {"category": "UTILITY"} | other
        return Template(id=new_id(), name=name, language=language, components=list(parts), **settings)

    named: dict[str, Any] = {
        "type": "BODY",
        "text": "Hola {{first_name}}, su pedido {{order_id}} va en camino.",
    }
    url = {"type": "URL", "text": "Ver", "url": "https://shop.example/t/{{1}}", "example": ["A1"]}
    otp = {"type": "OTP", "otp_type": "COPY_CODE", "text": "Copiar"}
    reply = {"type": "QUICK_REPLY", "text": "No enviar"}
    image = {"type": "HEADER", "format": "IMAGE", "example": {"header_handle": ["sample"]}}
    return [
        make("order_update", body("Hola {{1}}, su pedido {{2}} va en camino.", "Ana", "A1")),
        make("order_update", body("Hola {{1}}, tu pedido {{2}} va de camino.", "Ana", "A1"), language="es"),
        make("order_named", named, parameter_format="NAMED"),
        make("plain", body("Gracias por su compra.")),
        make("tracking", body("Pedido {{1}} enviado.", "A1"), {"type": "BUTTONS", "buttons": [url]}),
        make(
            "spring_offer",
            image,
            body("Hola {{1}}, tenemos una oferta.", "Ana"),
            {"type": "BUTTONS", "buttons": [reply]},
            category="MARKETING",
        ),
        make(
            "login_code",
            body("Su código es {{1}}.", "123456"),
            {"type": "BUTTONS", "buttons": [otp]},
            category="AUTHENTICATION",
        ),
        make("paused", body("Hola {{1}}.", "Ana"), status="PAUSED", category="MARKETING"),
        make("disabled", body("Hola {{1}}.", "Ana"), status="DISABLED", category="MARKETING"),
        make("pending", body("Hola {{1}}.", "Ana"), status="PENDING"),
    ]
