"""What the stand-in for Meta (tests only) answers to GET: phone numbers, WABAs, pages of templates."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import urlencode

from tests.graph.errors import Refused
from tests.graph.templates import Template
from tests.graph.world import Number, World

Json = dict[str, Any]
Query = Mapping[str, str]

DEFAULT_FIELDS = "verified_name,display_phone_number,quality_rating"
TEMPLATE_FIELDS = "name,parameter_format,components,language,status,category"


def phone_number(number: Number, fields: str | None, version: int = 25) -> Json:
    """`GET /{phone-number-id}`. The messaging limit is the portfolio's from Graph v24.0 on, and has a field of its
    own; before, it was the number's tier."""
    node = {
        "id": number.phone_number_id,
        "verified_name": number.verified_name,
        "display_phone_number": "+" + number.display_phone_number,
        "quality_rating": number.quality_rating,
        "status": number.status,
        "code_verification_status": "VERIFIED",
        "name_status": "APPROVED",
        "platform_type": "CLOUD_API",
        "account_mode": "LIVE",
        "throughput": {"level": number.throughput},
        "is_on_biz_app": number.is_on_biz_app,
        "whatsapp_business_manager_messaging_limit"
        if version >= 24
        else "messaging_limit_tier": number.messaging_limit,
        "health_status": health("PHONE_NUMBER", number.phone_number_id),
    }
    return chosen(node, fields or DEFAULT_FIELDS, "WhatsAppBusinessPhoneNumber")


def phone_numbers(world: World, waba_id: str, fields: str | None, version: int = 25) -> Json:
    """`GET /{waba-id}/phone_numbers`."""
    return {"data": [phone_number(one, fields, version) for one in world.numbers if one.waba_id == waba_id]}


def waba(waba_id: str, fields: str | None) -> Json:
    """`GET /{waba-id}`."""
    node = {
        "id": waba_id,
        "name": "Stand-in",
        "currency": "USD",
        "timezone_id": "1",
        "account_review_status": "APPROVED",
        "business_verification_status": "verified",
        "health_status": health("WABA", waba_id),
    }
    return chosen(node, fields or "name,currency,timezone_id", "WhatsAppBusinessAccount")


def templates_page(templates: list[Template], query: Query, url: str) -> Json:
    """`GET /{waba-id}/message_templates`: a page, and where the next one is.

    Filters apply to the page after it is cut, so a page may be empty and still have a next one, as with Meta.
    """
    limit = page_size(query.get("limit", "25"))
    start = place(query["after"]) + 1 if "after" in query else 0
    page = templates[start : start + limit]
    fields = query.get("fields") or TEMPLATE_FIELDS
    shown = [chosen(asdict(one), fields, "WhatsAppMessageTemplate") for one in page if wanted(one, query)]
    answer: Json = {"data": shown}
    if page:
        last = start + len(page) - 1
        answer["paging"] = {"cursors": {"before": cursor(start), "after": cursor(last)}}
        if last + 1 < len(templates):
            answer["paging"]["next"] = f"{url}?{urlencode({**query, 'after': cursor(last)})}"
    return answer


def wanted(template: Template, query: Query) -> bool:
    """Whether the filters of the query let it through: name contains, the others equal."""
    return query.get("name", "") in template.name and all(
        query[name] == getattr(template, name) for name in ("status", "category", "language") if name in query
    )


def chosen(node: Json, fields: str, kind: str) -> Json:
    """The fields asked for, and always the id; those a template simply lacks are left out, unknown ones
    refused."""
    names = [name.partition("{")[0].strip() for name in fields.split(",")]
    for name in names:
        if name not in node and kind != "WhatsAppMessageTemplate":
            raise Refused(100, f"Tried accessing nonexisting field ({name}) on node type ({kind})")
    return {name: node[name] for name in names if name in node} | {"id": node["id"]}


def health(entity_type: str, node_id: str) -> Json:
    entity = {"entity_type": entity_type, "id": node_id, "can_send_message": "AVAILABLE"}
    return {"can_send_message": "AVAILABLE", "entities": [entity]}


def cursor(index: int) -> str:
    return urlsafe_b64encode(f"QVFI{index}".encode()).decode()


def page_size(limit: str) -> int:
    if not limit.isdecimal() or int(limit) < 1:
        raise Refused(100, "Param limit must be a positive integer.")
    return int(limit)


def place(cursor_text: str) -> int:
    try:
        return int(urlsafe_b64decode(cursor_text)[4:])
    except ValueError as error:
        raise Refused(100, "Invalid cursor") from error
