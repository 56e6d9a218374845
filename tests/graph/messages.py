"""Reading a message body as Meta would, in the stand-in for Meta (tests only): valid, or refused with which
code.

Contract: Meta, messages/send-messages and the page of each message type. Unknown keys of the envelope are
refused so that a misspelt one is noticed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from re import compile as pattern
from typing import Any

from tests.graph.errors import Refused
from tests.graph.people import People, Person
from tests.graph.templates import unknown_template
from tests.graph.world import Number, World

Json = dict[str, Any]

ENVELOPE = {
    "messaging_product", "recipient_type", "to", "recipient", "type", "context", "biz_opaque_callback_data",
    "messaging_account_id", "recipient_identity_key_hash",
}  # fmt: skip
PUNCTUATION = str.maketrans("", "", "-() ")
USER_ID = pattern(r"[A-Z]{2}\.(ENT\.)?[A-Za-z0-9]{1,128}")
CALLBACK_DATA_LIMIT = 512


@dataclass(slots=True)
class Letter:
    """A valid message. `address` is what the client wrote into `to` or `recipient`."""

    address: str
    by_phone: bool
    person: Person
    type: str
    template_name: str | None
    category: str
    callback_data: str | None


def read(body: Json, number: Number, world: World, people: People) -> Letter:
    """The message in `body`, or `Refused`."""
    if body.get("messaging_product") != "whatsapp":
        raise Refused(100, "The parameter messaging_product is required.")
    for key in body:
        if key not in ENVELOPE and key != body.get("type"):
            raise Refused(100, f'Unexpected key "{key}".')
    person, address, by_phone = recipient(body, number, people)
    kind = body.get("type")
    check = CHECKS.get(kind) if isinstance(kind, str) else None
    if not isinstance(kind, str) or check is None:
        raise Refused(100, f'Param type must be one of {{{", ".join(CHECKS)}}} - got "{kind}".')
    content = body.get(kind)
    if not content or not isinstance(content, list if kind == "contacts" else dict):
        raise Refused(131008, f"Parameter '{kind}' is mandatory for type '{kind}'")
    check(content)
    check_context(body.get("context"), kind)
    callback_data = body.get("biz_opaque_callback_data")
    if callback_data is not None:
        text(callback_data, "biz_opaque_callback_data", CALLBACK_DATA_LIMIT)
    name, category = None, "service"
    if isinstance(content, dict) and kind == "template":
        name, category = check_template(content, number, world, by_phone=by_phone)
    return Letter(address, by_phone, person, kind, name, category, callback_data)


def recipient(body: Json, number: Number, people: People) -> tuple[Person, str, bool]:
    """Whom it goes to, what was written, and whether that was a phone. `to` wins silently over
    `recipient`."""
    to, user_id = body.get("to"), body.get("recipient")
    if to:
        if not isinstance(to, str):
            raise Refused(100, "Param to must be a string.")
        digits = dialled(to, number)
        if digits == number.display_phone_number:
            raise Refused(131021, "Sender and recipient are the same phone number")
        return people.by_phone(digits), to, True
    if not user_id:
        raise Refused(100, "The parameter to is required.")
    if not isinstance(user_id, str) or not USER_ID.fullmatch(user_id):
        raise Refused(131009, "Parameter recipient is not a valid business-scoped user id")
    return people.by_user_id(user_id), user_id, False


def dialled(to: str, number: Number) -> str:
    """Digits of `to`. Without a leading `+` Meta puts the business number's own country code before it."""
    digits = to.translate(PUNCTUATION)
    digits = digits[1:] if digits.startswith("+") else number.dial_code + digits
    if not digits.isdecimal() or not 7 <= len(digits) <= 15:
        raise Refused(131009, "Recipient phone number is not valid")
    return digits


def check_template(content: Json, number: Number, world: World, *, by_phone: bool) -> tuple[str, str]:
    """Name and pricing category of a template that may go out like this."""
    name, language = content.get("name"), content.get("language")
    if not isinstance(name, str) or not isinstance(language, dict) or not isinstance(language.get("code"), str):
        raise Refused(131008, "Parameters 'name' and 'language.code' are mandatory for type 'template'")
    template = world.template(number.waba_id, name, language["code"])
    if template is None:
        raise unknown_template(name, language["code"])
    template.check(content.get("components"), by_phone=by_phone)
    return name, template.category.lower()


def check_context(context: object, kind: str) -> None:
    if context is None:
        return
    if not isinstance(context, dict) or not isinstance(context.get("message_id"), str):
        raise Refused(100, "Param context must be an object with message_id.")
    if kind == "reaction":
        raise Refused(100, "Param context is not allowed for type 'reaction'.")


def text(value: object, name: str, limit: int) -> str:
    """`value` if it is a text of 1 to `limit` characters."""
    if not isinstance(value, str) or not value:
        raise Refused(131008, f"Parameter '{name}' is mandatory")
    if len(value) > limit:
        raise Refused(100, f"Param {name} must be at most {limit} characters long.")
    return value


def optional_text(value: object, name: str, limit: int) -> None:
    if value is not None:
        text(value, name, limit)


def check_text(content: Json) -> None:
    text(content.get("body"), "text['body']", 4096)


def media(kind: str, *, caption: bool) -> Callable[[Json], None]:
    """The check of a media type: exactly one of id and link; a caption only where there is one."""

    def check(content: Json) -> None:
        if bool(content.get("id")) == bool(content.get("link")):
            raise Refused(100, f"Param {kind} needs exactly one of 'id' and 'link'.")
        link = content.get("link", "https://")
        if not isinstance(link, str) or not link.startswith(("https://", "http://")):
            raise Refused(131009, f"{kind}['link'] is not a URL")
        if "caption" in content and not caption:
            raise Refused(100, f'Unexpected key "caption" on param "{kind}".')
        optional_text(content.get("caption"), f"{kind}['caption']", 1024)

    return check


def check_location(content: Json) -> None:
    for name, most in (("latitude", 90), ("longitude", 180)):
        try:
            fits = abs(float(content[name])) <= most
        except (KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            raise Refused(131009, f"Parameter 'location.{name}' is not valid")


def check_contacts(content: list[Any]) -> None:
    for card in content:
        name = card.get("name") if isinstance(card, dict) else None
        if not isinstance(name, dict) or not name.get("formatted_name") or len(name) < 2:
            raise Refused(131008, "Each contact needs name.formatted_name and one more part of the name")


def check_reaction(content: Json) -> None:
    if not isinstance(content.get("emoji"), str):
        raise Refused(131008, "Parameter 'reaction.emoji' is mandatory")
    if not str(content.get("message_id", "")).startswith("wamid."):
        raise Refused(131009, "Parameter 'reaction.message_id' is not valid")


def check_interactive(content: Json) -> None:
    """The common frame, and limits of reply buttons, lists and link buttons; other kinds pass with their
    frame."""
    kind, action = content.get("type"), content.get("action")
    if not isinstance(kind, str) or not isinstance(action, dict):
        raise Refused(131008, "Parameters 'interactive.type' and 'interactive.action' are mandatory")
    body = content.get("body")
    if kind != "product":
        limit = 4096 if kind == "list" else 1024
        text(body.get("text") if isinstance(body, dict) else None, "interactive['body']['text']", limit)
    if isinstance(footer := content.get("footer"), dict):
        text(footer.get("text"), "interactive['footer']['text']", 60)
    if isinstance(header := content.get("header"), dict) and header.get("type") == "text":
        text(header.get("text"), "interactive['header']['text']", 60)
    try:
        if kind == "button":
            check_reply_buttons(action["buttons"])
        elif kind == "list":
            check_list(action)
        elif kind == "cta_url":
            text(action["parameters"]["display_text"], "display_text", 20)
            text(action["parameters"]["url"], "url", 2000)
    except (KeyError, TypeError, AttributeError) as error:
        raise Refused(131008, f"interactive.action is incomplete for type '{kind}'") from error


def check_reply_buttons(buttons: list[Json]) -> None:
    titles = [text(one["reply"]["title"], "reply['title']", 20) for one in buttons]
    ids = [text(one["reply"]["id"], "reply['id']", 256) for one in buttons]
    if not 1 <= len(buttons) <= 3:
        raise Refused(131009, "Invalid buttons count. Min allowed buttons: 1, Max allowed buttons: 3")
    if len(set(titles)) < len(titles) or len(set(ids)) < len(ids):
        raise Refused(131009, "Duplicated title or id among reply buttons")


def check_list(action: Json) -> None:
    text(action["button"], "action['button']", 20)
    sections = action["sections"]
    rows = [row for section in sections for row in section["rows"]]
    if not 1 <= len(sections) <= 10 or not 1 <= len(rows) <= 10:
        raise Refused(131009, "Total row count exceed max allowed count: 10")
    for section in sections:
        if len(sections) > 1:
            text(section.get("title"), "section['title']", 24)
    for row in rows:
        text(row["id"], "row['id']", 200)
        text(row["title"], "row['title']", 24)
        optional_text(row.get("description"), "row['description']", 72)


CHECKS: dict[str, Callable[[Any], None]] = {
    "text": check_text,
    "template": lambda content: None,
    "image": media("image", caption=True),
    "video": media("video", caption=True),
    "document": media("document", caption=True),
    "audio": media("audio", caption=False),
    "sticker": media("sticker", caption=False),
    "location": check_location,
    "contacts": check_contacts,
    "reaction": check_reaction,
    "interactive": check_interactive,
}
