"""Webhook bytes to events: one payload file a case, what must come of it written by hand."""

import json
import random
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from services.whatsapp.directory import Account, Directory
from services.whatsapp.meta.events import parse
from services.whatsapp.meta.events.clean import META_ID_KEYS, load

PAYLOADS = Path(__file__).parents[3] / "payloads" / "webhook"
MAIN = Account("MX", "main", "106540352242922", "102290129340398", ("t1",), "525550001111")
SHOP = Account("MX", "shop", "108765432109876", "102290129340398", ("t2",), "525550003333")
SOUTH = Account("AR", "main", "207651463353033", "303391230451509", ("t3",))
APP_ID = "661122334455667"
DIRECTORY = Directory([MAIN, SHOP, SOUTH], APP_ID)
META_IDS = [APP_ID, "106540352242922", "102290129340398", "108765432109876", "207651463353033", "303391230451509"]
STRANGE_IDS = ["990011223344556", "998877665544332", "887766554433221", "778899001122334"]
OUR_ID = "0192f5a4-7b1c-7c3e-9d2a-1b2c3d4e5f60"
KEYS = {
    "key", "country_id", "account_id", "field", "kind", "at", "wamid", "message_id", "state", "contact", "error",
    "price", "window_until", "content", "payload",
}  # fmt: skip

NOBODY = dict.fromkeys(
    (
        "wa_id", "match_key", "bsuid", "parent_bsuid", "identity_key_hash", "name", "username", "previous_wa_id",
        "previous_match_key", "previous_bsuid",
    )
)  # fmt: skip
ANA = NOBODY | {"wa_id": "5215512345678", "match_key": "525512345678", "bsuid": "MX.1A2b3C", "name": "Ana"}
ANA_WITHOUT_NAME = ANA | {"name": None}
AT_MAIN = {"country_id": "MX", "account_id": "main", "field": "messages"}
RECEIVED = AT_MAIN | {"kind": "message", "at": 1795500000, "contact": ANA, "state": None, "message_id": None}
STATUS = AT_MAIN | {
    "kind": "status",
    "at": 1795500060,
    "wamid": "wamid.OUT1",
    "message_id": OUR_ID,
    "contact": ANA_WITHOUT_NAME,
    "content": None,
    "window_until": None,
    "price": None,
    "error": None,
}
IGNORED = AT_MAIN | {"kind": "ignored", "state": None, "contact": None, "content": None}
UNPARSABLE = {"kind": "unparsable", "country_id": "ZZ", "account_id": None, "contact": None, "content": None}
UNPARSABLE_AT_MAIN = UNPARSABLE | AT_MAIN
BESIDE = AT_MAIN | {"kind": "ignored", "wamid": None, "contact": None}
ANAS_CONTACT = {"profile": {"name": "Ana"}, "wa_id": "5215512345678", "user_id": "MX.1A2b3C"}
UNROUTABLE = {"kind": "unroutable", "country_id": "ZZ", "account_id": None, "content": None}
IN_SOUTH = {"country_id": "AR", "account_id": "main", "at": 1795500200, "contact": None, "wamid": None}
PRICE = {"billable": True, "pricing_model": "PMP", "type": "regular", "category": "utility"}

CASES: dict[str, list[dict[str, Any]]] = {
    "text": [
        RECEIVED
        | {
            "wamid": "wamid.IN1",
            "content": {
                "type": "text",
                "text": {"body": "¿Está abierto?"},
                "context": {"from": "5215550001111", "id": "wamid.OUT0"},
            },
            "payload": {
                "from": "5215512345678",
                "from_user_id": "MX.1A2b3C",
                "timestamp": "1795500000",
                "id": "wamid.IN1",
                "type": "text",
                "text": {"body": "¿Está abierto?"},
                "context": {"from": "5215550001111", "id": "wamid.OUT0"},
            },
        }
    ],
    "text_from_advertisement": [
        RECEIVED
        | {
            "wamid": "wamid.IN2",
            "content": {
                "type": "text",
                "text": {"body": "Info"},
                "referral": {
                    "source_url": "https://fb.me/x",
                    "source_type": "ad",
                    "source_id": "123",
                    "ctwa_clid": "clid",
                },
            },
        }
    ],
    "image": [
        RECEIVED
        | {
            "wamid": "wamid.IN3",
            "content": {
                "type": "image",
                "image": {
                    "id": "998877665544",
                    "mime_type": "image/jpeg",
                    "sha256": "aGFzaA==",
                    "caption": "Mi recibo",
                },
            },
        }
    ],
    "button": [
        RECEIVED
        | {
            "content": {
                "type": "button",
                "button": {"payload": "YES", "text": "Sí"},
                "context": {"from": "5215550001111", "id": "wamid.OUT0"},
            }
        }
    ],
    "interactive_button_reply": [
        RECEIVED
        | {
            "wamid": "wamid.IN70",
            "content": {
                "type": "interactive",
                "context": {"from": "5215550001111", "id": "wamid.OUT0"},
                "interactive": {"type": "button_reply", "button_reply": {"id": "yes", "title": "Sí"}},
            },
        }
    ],
    "interactive_list_reply": [
        RECEIVED
        | {
            "wamid": "wamid.IN71",
            "content": {
                "type": "interactive",
                "context": {"from": "5215550001111", "id": "wamid.OUT0"},
                "interactive": {
                    "type": "list_reply",
                    "list_reply": {"id": "express", "title": "Mañana", "description": "Hasta las 12"},
                },
            },
        }
    ],
    "interactive_flow_reply": [
        RECEIVED
        | {
            "wamid": "wamid.IN72",
            "content": {
                "type": "interactive",
                "context": {"from": "5215550001111", "id": "wamid.OUT0"},
                "interactive": {
                    "type": "nfm_reply",
                    "nfm_reply": {"name": "flow", "body": "Sent", "response_json": '{"flow_token":"unused","mesa":2}'},
                },
            },
        }
    ],
    "location": [
        RECEIVED
        | {
            "wamid": "wamid.IN73",
            "content": {
                "type": "location",
                "location": {
                    "latitude": 19.4326,
                    "longitude": -99.1332,
                    "name": "Zócalo",
                    "address": "Centro",
                    "url": "https://shop.example/a",
                },
            },
        }
    ],
    "order": [
        RECEIVED
        | {
            "wamid": "wamid.IN74",
            "content": {
                "type": "order",
                "order": {
                    "catalog_id": "cat-1",
                    "text": "Dos mesas",
                    "product_items": [
                        {"product_retailer_id": "sku-1", "quantity": 2, "item_price": 100, "currency": "MXN"}
                    ],
                },
            },
        }
    ],
    "sticker": [
        RECEIVED
        | {
            "wamid": "wamid.IN75",
            "content": {
                "type": "sticker",
                "sticker": {"mime_type": "image/webp", "sha256": "aGFzaA==", "id": "998877665545", "animated": False},
            },
        }
    ],
    "audio_voice": [
        RECEIVED
        | {
            "wamid": "wamid.IN76",
            "content": {
                "type": "audio",
                "audio": {
                    "mime_type": "audio/ogg; codecs=opus",
                    "sha256": "aGFzaA==",
                    "id": "998877665546",
                    "voice": True,
                },
            },
        }
    ],
    "reaction": [RECEIVED | {"content": {"type": "reaction", "reaction": {"message_id": "wamid.OUT0", "emoji": "👍"}}}],
    "reaction_removed": [RECEIVED | {"content": {"type": "reaction", "reaction": {"message_id": "wamid.OUT0"}}}],
    "edit": [
        RECEIVED
        | {
            "content": {
                "type": "edit",
                "edit": {
                    "original_message_id": "wamid.IN1",
                    "message": {"type": "text", "text": {"body": "¿Está abierto hoy?"}},
                },
            }
        }
    ],
    "revoke": [RECEIVED | {"content": {"type": "revoke", "revoke": {"original_message_id": "wamid.IN1"}}}],
    "unsupported": [
        RECEIVED
        | {
            "content": {
                "type": "unsupported",
                "unsupported": {"type": "poll_creation"},
                "errors": [
                    {
                        "code": 131051,
                        "title": "Message type unknown",
                        "message": "Message type unknown",
                        "error_data": {"details": "Message type is currently not supported."},
                    }
                ],
            }
        }
    ],
    "without_type": [RECEIVED | {"wamid": "wamid.IN10", "content": {"type": "unknown"}}],
    "without_from": [RECEIVED | {"wamid": "wamid.IN11"}],
    "from_user_id_only": [
        RECEIVED | {"wamid": "wamid.IN12", "contact": NOBODY | {"bsuid": "MX.1A2b3C", "username": "@ana.lopez"}}
    ],
    "from_nobody": [
        UNPARSABLE_AT_MAIN
        | {
            "wamid": "wamid.IN13",
            "at": 1795500000,
            "payload": {"id": "wamid.IN13", "timestamp": "1795500000", "type": "text", "text": {"body": "Hola"}},
        }
    ],
    "without_id": [UNPARSABLE_AT_MAIN, BESIDE | {"payload": {"contacts": [ANAS_CONTACT]}}],
    "group_message": [IGNORED | {"wamid": "wamid.IN14"}, BESIDE | {"payload": {"contacts": [ANAS_CONTACT]}}],
    "request_welcome": [IGNORED | {"wamid": "wamid.IN15"}, BESIDE | {"payload": {"contacts": [ANAS_CONTACT]}}],
    "two_people": [
        RECEIVED
        | {
            "contact": NOBODY
            | {
                "wa_id": "5215587654321",
                "match_key": "525587654321",
                "bsuid": "MX.9Z8y7X",
                "name": "Beto",
            }
        },
        BESIDE | {"payload": {"contacts": [ANAS_CONTACT]}},
    ],
    "user_changed_number": [
        AT_MAIN
        | {
            "kind": "system",
            "at": 1795500100,
            "wamid": "wamid.SYS1",
            "contact": NOBODY
            | {
                "wa_id": "5215599990000",
                "match_key": "525599990000",
                "bsuid": "MX.4D5e6F",
                "previous_wa_id": "5215512345678",
                "previous_match_key": "525512345678",
                "previous_bsuid": "MX.1A2b3C",
            },
        }
    ],
    "user_changed_user_id": [
        AT_MAIN | {"kind": "system", "contact": NOBODY | {"bsuid": "MX.4D5e6F", "previous_bsuid": "MX.1A2b3C"}}
    ],
    "user_identity_changed": [
        AT_MAIN
        | {
            "kind": "system",
            "contact": NOBODY | {"wa_id": "5215512345678", "match_key": "525512345678"},
            "content": {
                "type": "system",
                "system": {"type": "user_identity_changed", "body": "User A changed"},
            },
        }
    ],
    "sent": [STATUS | {"state": "sent", "contact": ANA, "price": PRICE}],
    "delivered": [STATUS | {"state": "delivered", "contact": ANA}],
    "read": [STATUS | {"state": "read", "contact": ANA}],
    "played": [STATUS | {"state": "played", "contact": ANA}],
    "failed": [
        STATUS
        | {
            "state": "failed",
            "contact": ANA_WITHOUT_NAME | {"bsuid": None},
            "error": {
                "code": 131049,
                "title": "Meta did not deliver it to keep engagement healthy",
                "details": "In order to maintain a healthy ecosystem engagement, "
                "the message to … failed to be delivered.",
                "advice": "This person gets enough marketing already: wait at least 24 hours, "
                "sooner tries make it worse.",
                "disposition": "permanent",
                "effect": "cool_contact",
                "wait_seconds": 86400,
                "attempts": 0,
                "known": True,
                "fbtrace_id": None,
            },
        }
    ],
    "failed_unknown_code": [
        AT_MAIN
        | {
            "state": "failed",
            "error": {
                "code": 999999,
                "title": "A brand new error",
                "details": "A brand new error",
                "advice": "Meta reported an error this product does not know: see Meta's error codes for its meaning.",
                "disposition": "permanent",
                "effect": "none",
                "wait_seconds": 0,
                "attempts": 0,
                "known": False,
                "fbtrace_id": None,
            },
        }
    ],
    "failed_in_old_words": [
        STATUS
        | {
            "state": "failed",
            "contact": ANA_WITHOUT_NAME | {"bsuid": None},
            "error": {
                "code": 131026,
                "title": "Message undeliverable",
                "details": "Message Undeliverable.",
                "advice": "The person may not use WhatsApp, may not have accepted its terms or may use an old version.",
                "disposition": "permanent",
                "effect": "cool_contact",
                "wait_seconds": 30 * 86400,
                "attempts": 0,
                "known": True,
                "fbtrace_id": None,
            },
        }
    ],
    "sent_in_entry_point_window": [
        STATUS
        | {
            "state": "sent",
            "window_until": 1796104800,
            "price": PRICE | {"type": "free_entry_point", "category": "referral_conversion"},
        }
    ],
    "sent_with_old_conversation": [STATUS | {"state": "sent"}],
    "sent_without_our_id": [STATUS | {"state": "sent", "message_id": None}],
    "sent_with_foreign_tag": [STATUS | {"state": "sent", "message_id": None}],
    "status_to_user_id": [
        STATUS | {"state": "delivered", "contact": NOBODY | {"bsuid": "MX.1A2b3C", "username": "@ana.lopez"}}
    ],
    "status_warning": [IGNORED | {"wamid": "wamid.OUT1"}],
    "status_deleted": [IGNORED | {"wamid": "wamid.OUT1"}],
    "status_of_group": [IGNORED | {"wamid": "wamid.OUT1"}],
    "value_errors": [
        AT_MAIN
        | {
            "kind": "account",
            "wamid": None,
            "content": {
                "errors": [
                    {
                        "code": 130429,
                        "title": "Rate limit hit",
                        "message": "Rate limit hit",
                        "error_data": {"details": "Message failed to send because there were too many messages sent."},
                    }
                ]
            },
        }
    ],
    "user_actions": [IGNORED],
    "many": [
        STATUS | {"state": "sent", "contact": ANA},
        STATUS | {"state": "read", "contact": ANA},
        UNPARSABLE_AT_MAIN | {"payload": {"status": "read"}},
        RECEIVED | {"wamid": "wamid.IN1"},
        UNPARSABLE_AT_MAIN | {"payload": {"raw": "not a message"}},
        UNPARSABLE,
        {
            "kind": "message",
            "country_id": "AR",
            "account_id": "main",
            "wamid": "wamid.IN20",
            "contact": NOBODY | {"wa_id": "5491123456789", "match_key": "541123456789", "name": "Cora"},
        },
        UNPARSABLE,
    ],
    "template_paused": [
        IN_SOUTH
        | {
            "kind": "template",
            "field": "message_template_status_update",
            "content": {
                "event": "PAUSED",
                "message_template_id": 5566778899001,
                "message_template_name": "order_update",
                "message_template_language": "es_MX",
                "reason": "NONE",
                "other_info": {
                    "title": "FIRST_PAUSE",
                    "description": "Your template was paused for 3 hours.",
                },
            },
        }
    ],
    "template_of_two_accounts": [
        {"kind": "template", "country_id": "MX", "account_id": "main"},
        {"kind": "template", "country_id": "MX", "account_id": "shop"},
    ],
    "template_category": [IN_SOUTH | {"kind": "template", "field": "template_category_update"}],
    "number_quality": [
        {
            "kind": "account",
            "country_id": "MX",
            "account_id": "main",
            "content": {
                "display_phone_number": "5215550001111",
                "event": "THROUGHPUT_UPGRADE",
                "current_limit": "TIER_10K",
            },
        }
    ],
    "number_quality_of_strange_number": [UNROUTABLE | {"field": "phone_number_quality_update"}],
    "account_restricted": [
        IN_SOUTH
        | {
            "kind": "account",
            "content": {
                "event": "ACCOUNT_RESTRICTION",
                "restriction_info": [
                    {"restriction_type": "RESTRICTED_BIZ_INITIATED_MESSAGING", "expiration": 1796104800}
                ],
                "waba_info": {},
            },
        }
    ],
    "account_update_of_partner": [
        # Whose app it was, Meta does not say here.
        IN_SOUTH | {"kind": "ignored", "payload": {"event": "PARTNER_REMOVED", "waba_info": {}}}
    ],
    "account_alert": [
        IN_SOUTH
        | {
            "kind": "account",
            "content": {
                "entity_type": "PHONE_NUMBER",
                "alert_info": {
                    "alert_severity": "WARNING",
                    "alert_status": "NONE",
                    "alert_type": "PROFILE_PICTURE_LOST",
                    "alert_description": "See number …",
                },
            },
        }
    ],
    "unknown_field": [IN_SOUTH | {"kind": "ignored", "field": "shiny_new_update"}],
    "unknown_waba": [UNROUTABLE | {"payload": {"event": "DISABLED_UPDATE"}}],
    "unknown_number": [UNROUTABLE | {"field": "messages", "wamid": None}],
    "without_metadata": [UNROUTABLE | {"field": "messages"}],
    "stopped_marketing": [
        {
            "kind": "preference",
            "country_id": "MX",
            "account_id": "main",
            "field": "user_preferences",
            "at": 1795500150,
            "contact": ANA,
            "content": {
                "wa_id": "5215512345678",
                "user_id": "MX.1A2b3C",
                "detail": "User requested to stop marketing messages",
                "category": "marketing_messages",
                "value": "stop",
                "timestamp": 1795500150,
            },
        }
    ],
    "preference_of_nobody": [
        UNPARSABLE_AT_MAIN | {"field": "user_preferences"},
        BESIDE | {"field": "user_preferences", "payload": {"contacts": [ANAS_CONTACT]}},
    ],
    "call": [
        AT_MAIN
        | {
            "kind": "call",
            "field": "calls",
            "at": 1795500000,
            "contact": ANA,
            "payload": {
                "id": "wacid.CALL1",
                "to": "5215550001111",
                "from": "5215512345678",
                "timestamp": "1795500000",
                "direction": "USER_INITIATED",
                "event": "connect",
            },
        }
    ],
    "call_ended": [IGNORED | {"field": "calls"}, BESIDE | {"field": "calls", "payload": {"contacts": [ANAS_CONTACT]}}],
    "call_by_us": [IGNORED | {"field": "calls"}, BESIDE | {"field": "calls", "payload": {"contacts": [ANAS_CONTACT]}}],
    "call_status": [IGNORED | {"field": "calls"}],
    "echo": [IGNORED | {"field": "smb_message_echoes"}],
    "wrong_object": [UNPARSABLE],
    "no_entries": [],
    "entry_is_no_list": [UNPARSABLE],
    "number_id_in_text": [RECEIVED | {"content": {"type": "text", "text": {"body": "id … of …"}}}],
    "nul_character": [RECEIVED | {"content": {"type": "text", "text": {"body": "a�b"}}}],
    "lone_surrogate": [RECEIVED | {"content": {"type": "text", "text": {"body": "a?b"}}}],
    "timestamp_as_number": [RECEIVED | {"wamid": "wamid.IN43"}],
    "timestamp_of_garbage": [RECEIVED | {"wamid": "wamid.IN44", "at": None}],
    "messages_is_an_object": [
        STATUS | {"state": "sent", "contact": ANA},
        UNPARSABLE_AT_MAIN
        | {
            "payload": {
                "messages": {
                    "0": {
                        "from": "5215512345678",
                        "from_user_id": "MX.1A2b3C",
                        "timestamp": "1795500000",
                        "id": "wamid.IN60",
                        "type": "text",
                        "text": {"body": "Perdido"},
                    }
                }
            }
        },
    ],
    "contacts_is_an_object": [
        RECEIVED | {"contact": ANA_WITHOUT_NAME},
        BESIDE | {"payload": {"contacts": [{"0": ANAS_CONTACT}]}},
    ],
    "lists_beside_messages": [
        RECEIVED | {"wamid": "wamid.IN60"},
        BESIDE
        | {
            "payload": {
                "message_echoes": [
                    {"id": "wamid.ECHO1", "to": "5215512345678", "type": "text", "text": {"body": "Eco"}}
                ],
                "calls": [{"id": "wacid.CALL9", "event": "connect"}],
                "user_actions": [{"action_type": "landing_page_view", "timestamp": "1795500001"}],
                "conversation_context": {"id": "ctx-1"},
            }
        },
    ],
    "errors_beside_messages": [
        RECEIVED | {"wamid": "wamid.IN60"},
        AT_MAIN | {"kind": "account", "content": {"errors": [{"code": 130429, "title": "Rate limit hit"}]}},
    ],
    "messages_beside_value": [
        RECEIVED | {"wamid": "wamid.IN60"},
        BESIDE
        | {
            "payload": {
                "messages": [
                    {
                        "from": "5215512345678",
                        "from_user_id": "MX.1A2b3C",
                        "timestamp": "1795500000",
                        "id": "wamid.IN61",
                        "type": "text",
                        "text": {"body": "Afuera"},
                    }
                ]
            }
        },
    ],
    "contact_with_everything": [
        RECEIVED
        | {
            "contact": ANA
            | {"username": "@ana.lopez", "parent_bsuid": "MX.ENT.9Q8w7E", "identity_key_hash": "aGFzaA=="}
        }
    ],
    "contact_with_more": [
        RECEIVED | {"wamid": "wamid.IN60"},
        BESIDE | {"payload": {"contacts": [ANAS_CONTACT | {"country": "MX"}]}},
    ],
    "status_with_everything": [
        STATUS
        | {
            "state": "read",
            "contact": ANA
            | {"username": "@ana.lopez", "parent_bsuid": "MX.ENT.9Q8w7E", "identity_key_hash": "aGFzaA=="},
        }
    ],
    "contact_in_another_spelling": [RECEIVED | {"contact": ANA | {"bsuid": None, "wa_id": "525512345678"}}],
    "names_in_a_batch": [
        RECEIVED | {"wamid": "wamid.IN60", "contact": ANA | {"wa_id": "525512345678"}},
        RECEIVED
        | {
            "wamid": "wamid.IN62",
            "contact": NOBODY
            | {"wa_id": "525587654321", "match_key": "525587654321", "bsuid": "MX.9Z8y7X", "name": "Beto"},
        },
        RECEIVED | {"wamid": "wamid.IN63", "contact": ANA | {"wa_id": "525512345678"}},
    ],
    "from_is_a_user_id": [RECEIVED | {"contact": NOBODY | {"bsuid": "MX.1047385771169"}}],
    "from_is_a_group": [IGNORED | {"wamid": "wamid.IN60"}],
    "from_is_a_number": [RECEIVED | {"contact": NOBODY | {"wa_id": "5215512345678", "match_key": "525512345678"}}],
    "from_in_other_digits": [UNPARSABLE_AT_MAIN | {"wamid": "wamid.IN60"}],
    "recipient_is_a_user_id": [STATUS | {"state": "sent", "contact": NOBODY | {"bsuid": "MX.1047385771169"}}],
    "recipient_is_a_group": [IGNORED | {"wamid": "wamid.OUT1"}],
    "text_without_type": [
        RECEIVED | {"content": {"type": "text", "text": {"body": "Hola"}, "context": {"id": "wamid.OUT0"}}}
    ],
    "new_type_without_type": [RECEIVED | {"content": {"type": "unknown", "hologram": {"x": 1}}}],
    "members_beside_the_body": [
        RECEIVED
        | {
            "contact": ANA | {"identity_key_hash": "aGFzaA=="},
            "content": {
                "type": "contacts",
                "contacts": [{"name": {"formatted_name": "Beto"}, "origin": "contact_request"}],
                "origin": "contact_request",
                "username": "@ana.lopez",
                "identity": {"acknowledged": True, "created_timestamp": 1795400000, "hash": "aGFzaA=="},
            },
        }
    ],
    "customer_changed_number": [
        AT_MAIN
        | {
            "kind": "system",
            "contact": NOBODY
            | {
                "wa_id": "5215599990000",
                "match_key": "525599990000",
                "previous_wa_id": "5215512345678",
                "previous_match_key": "525512345678",
            },
        }
    ],
    "customer_identity_changed": [
        AT_MAIN
        | {
            "kind": "system",
            "contact": NOBODY | {"wa_id": "5215512345678", "match_key": "525512345678", "identity_key_hash": "bmV1"},
            "content": {
                "type": "system",
                "system": {
                    "type": "customer_identity_changed",
                    "body": "User A changed",
                    "identity": {"acknowledged": False, "created_timestamp": 1795500099, "hash": "bmV1"},
                },
            },
        }
    ],
    "partner_app_uninstalled": [
        IN_SOUTH | {"kind": "account", "content": {"event": "PARTNER_APP_UNINSTALLED", "waba_info": {}}}
    ],
    "app_of_another_uninstalled": [
        IN_SOUTH | {"kind": "ignored", "payload": {"event": "PARTNER_APP_UNINSTALLED", "waba_info": {}}}
    ],
    "number_id_in_escapes": [
        RECEIVED
        | {
            "content": {
                "type": "text",
                "text": {"body": "id …"},
                "context": {"from": "5215550001111", "id": "wamid.OUT0"},
            }
        }
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_payload(name: str) -> None:
    events: list[Any] = [*parse((PAYLOADS / f"{name}.json").read_bytes(), DIRECTORY)]
    assert [{key: event[key] for key in want} for event, want in zip(events, CASES[name], strict=True)] == (CASES[name])


def test_every_payload_file_has_a_case() -> None:
    assert {path.stem for path in PAYLOADS.glob("*.json")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_an_event_is_complete_and_shows_no_id_of_meta(name: str) -> None:
    for event in parse((PAYLOADS / f"{name}.json").read_bytes(), DIRECTORY):
        assert set(event) == KEYS
        assert uuid.UUID(event["key"])
        written = json.dumps(event)
        assert [meta_id for meta_id in META_IDS + STRANGE_IDS if meta_id in written] == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"\x00",
        b'{"object": "whatsapp_business_account"}',
        b"[" * 100_000,
        b'{"object": "whatsapp_business_account", "entry": 1e999}',
    ],
)
def test_a_body_that_cannot_be_read_is_kept(body: bytes) -> None:
    (event,) = parse(body, DIRECTORY)
    assert (event["kind"], event["country_id"], event["account_id"]) == ("unparsable", "ZZ", None)
    assert event["payload"]["raw"][:20] == body.decode("utf-8", "replace").replace("\0", "�")[:20]
    assert len(event["payload"]["raw"]) >= len(body) - body.count(b"\xff")


def test_the_raw_text_of_an_unreadable_body_hides_ids() -> None:
    (event,) = parse(b'{"entry": [{"id": "123456789012345", "x": "106540352242922"', DIRECTORY)
    assert event["payload"]["raw"] == '{"entry": [{"id": "…", "x": "…"'


def test_the_raw_text_of_an_unreadable_body_hides_ids_in_escapes() -> None:
    escaped = "".join(f"\\u00{ord(digit):x}" for digit in MAIN.phone_number_id)
    (event,) = parse(f'{{"entry": [{{"id": "{escaped}", "text": "{escaped}"'.encode(), DIRECTORY)
    assert event["payload"]["raw"] == '{"entry": [{"id": "…", "text": "…"'


def one_change(value: Any, field: str = "messages") -> bytes:
    entry = {"id": MAIN.waba_id, "changes": [{"field": field, "value": value}]}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


def statuses(*pairs: tuple[str, str]) -> bytes:
    value = {
        "metadata": {"phone_number_id": MAIN.phone_number_id},
        "statuses": [{"id": wamid, "status": state, "timestamp": "1795500060"} for wamid, state in pairs],
    }
    return one_change(value)


def test_deep_nesting_can_still_be_written() -> None:
    deep: Any = "bottom"
    for _ in range(400):
        deep = [deep]
    value = {"metadata": {"phone_number_id": MAIN.phone_number_id}, "messages": []}
    message = {"id": "wamid.D", "from": "5215512345678", "type": "text", "text": deep}
    (event,) = parse(one_change(value | {"messages": [message]}), DIRECTORY)
    assert event["kind"] == "message"
    assert event["content"] is not None
    depth, inner = 0, event["content"]["text"]
    while isinstance(inner, list):
        depth, inner = depth + 1, inner[0]
    assert depth < 250
    assert inner is None


def test_a_huge_value_is_kept_whole() -> None:
    history = [{"threads": [{"id": "5215512345678", "messages": ["x" * 1_000] * 1_000}]}]
    value = {"metadata": {"phone_number_id": MAIN.phone_number_id}, "history": history}
    (event,) = parse(one_change(value, "history"), DIRECTORY)
    assert event["kind"] == "ignored"
    assert event["payload"]["history"] == history


def test_a_key_does_not_depend_on_batch_or_order() -> None:
    pairs = [(f"wamid.{number}", state) for number in range(20) for state in ("sent", "delivered", "read")]
    alone = {pair: parse(statuses(pair), DIRECTORY)[0]["key"] for pair in pairs}
    shuffled = random.Random(7).sample(pairs, len(pairs))
    together = {(e["wamid"], e["state"]): e["key"] for e in parse(statuses(*shuffled), DIRECTORY)}
    assert together == alone
    assert len(set(alone.values())) == len(pairs)


def test_one_person_told_with_each_of_their_statuses_is_no_event_of_their_own() -> None:
    person = {"wa_id": "5215512345678", "user_id": "MX.13491208655302741918", "profile": {"name": "Ana"}}
    status = {"id": "wamid.A", "timestamp": "1795500060", "recipient_id": person["wa_id"]}
    both = [status | {"status": state} for state in ("sent", "delivered")]

    events = parse(at(MAIN, statuses=both, contacts=[person, dict(person)]), DIRECTORY)

    assert [event["kind"] for event in events] == ["status", "status"]


def test_the_same_message_id_at_two_accounts_is_two_facts() -> None:
    here = parse(statuses(("wamid.1", "sent")), DIRECTORY)
    there = parse(
        statuses(("wamid.1", "sent")).replace(b"106540352242922", b"108765432109876"),
        DIRECTORY,
    )
    assert (there[0]["account_id"], here[0]["account_id"]) == ("shop", "main")
    assert there[0]["key"] != here[0]["key"]


def test_account_events_at_another_time_are_other_facts() -> None:
    body = (PAYLOADS / "template_paused.json").read_bytes()
    again = body.replace(b"1795500200", b"1795500999")
    assert parse(body, DIRECTORY)[0]["key"] == parse(body, DIRECTORY)[0]["key"]
    assert parse(body, DIRECTORY)[0]["key"] != parse(again, DIRECTORY)[0]["key"]


def test_an_account_without_its_number_gets_what_is_about_an_unknown_number() -> None:
    shop = Account("MX", "shop", SHOP.phone_number_id, SHOP.waba_id, ())
    body = (PAYLOADS / "number_quality_of_strange_number.json").read_bytes()
    (event,) = parse(body, Directory([MAIN, shop]))
    assert (event["kind"], event["account_id"]) == ("account", "shop")


def test_the_webhook_starts_fast() -> None:
    """Importing the hot path must not import what a cold start would pay for."""
    program = (
        "import sys; import services.whatsapp.meta.events, services.whatsapp.meta.signature; "
        "print([name for name in ('pydantic', 'phonenumbers', 'httpx', 'asyncio') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[4], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def at(account: Account, **value: Any) -> bytes:
    """A body of one value of field messages of an account."""
    return one_change({"metadata": {"phone_number_id": account.phone_number_id}} | value)


def written(**message: Any) -> dict[str, Any]:
    return {"from": "5215512345678", "id": "wamid.A", "timestamp": "1795500000"} | message


def test_other_content_under_one_wamid_is_another_fact() -> None:
    lost = written(type="unsupported", errors=[{"code": 131060}])
    found = written(type="text", text={"body": "hola"})
    keys = {parse(at(MAIN, messages=[message]), DIRECTORY)[0]["key"] for message in (lost, found)}
    assert len(keys) == 2


def test_the_order_of_keys_makes_no_other_fact() -> None:
    message = written(type="text", text={"body": "hola", "more": 1})
    turned = {name: message[name] for name in reversed(message)} | {"text": {"more": 1, "body": "hola"}}
    here, there = (parse(at(MAIN, messages=[each]), DIRECTORY)[0]["key"] for each in (message, turned))
    assert here == there


def test_a_second_failure_for_another_reason_is_another_fact() -> None:
    failed = {"id": "wamid.A", "status": "failed", "timestamp": "1795500060", "recipient_id": "5215512345678"}
    one, again, other = (
        parse(at(MAIN, statuses=[failed | {"errors": [{"code": code}]}]), DIRECTORY)[0]["key"]
        for code in (131026, 131026, 131049)
    )
    assert one == again
    assert one != other


def test_the_same_rubbish_at_two_numbers_is_two_events_each_with_its_own() -> None:
    rubbish = {"type": "text", "text": {"body": "no id"}}
    here, there = (parse(at(account, messages=[rubbish]), DIRECTORY) for account in (MAIN, SOUTH))
    assert here[0]["key"] != there[0]["key"]
    assert [(event["country_id"], event["account_id"], event["field"]) for event in here + there] == [
        ("MX", "main", "messages"),
        ("AR", "main", "messages"),
    ]


def test_an_app_that_is_not_known_ends_no_account() -> None:
    body = (PAYLOADS / "partner_app_uninstalled.json").read_bytes()
    (event,) = parse(body, Directory([MAIN, SHOP, SOUTH]))
    assert (event["kind"], event["country_id"]) == ("ignored", "AR")


WORDS = st.sampled_from(
    [
        "object", "whatsapp_business_account", "entry", "changes", "field", "value", "messages", "statuses",
        "metadata", "phone_number_id", "id", "from", "from_user_id", "contacts", "wa_id", "profile", "name", "type",
        "text", "system", "timestamp", "status", "sent", "failed", "errors", "code", "error_data", "calls", "event",
        "connect", "user_preferences", "user_id", "pricing", "conversation", "origin", "referral_conversion",
        "expiration_timestamp", "biz_opaque_callback_data", "account_update", "waba_info", "waba_id", "group_id",
        "entity_id", "display_phone_number", "5215512345678", "MX.1A2b3C", "wamid.X", OUR_ID, *META_IDS,
    ]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | WORDS
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=3), inner, max_size=6),
    max_leaves=25,
)
THINGS = st.dictionaries(WORDS, JSON, max_size=8)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.fixed_dictionaries({"phone_number_id": st.sampled_from(META_IDS) | SCALARS}) | JSON,
        "contacts": st.lists(THINGS | JSON, max_size=2),
        "messages": st.lists(THINGS | JSON, max_size=3) | JSON,
        "statuses": st.lists(THINGS | JSON, max_size=3) | JSON,
        "calls": st.lists(THINGS, max_size=2) | JSON,
        "user_preferences": st.lists(THINGS, max_size=2) | JSON,
        "errors": JSON,
        "anything": JSON,
    },
)
FIELDS = st.sampled_from(["messages", "calls", "user_preferences", "account_update", "account_alerts", "history"])
CHANGES = st.fixed_dictionaries({"field": FIELDS | JSON, "value": VALUES | JSON})
ENTRIES = st.fixed_dictionaries({"id": st.sampled_from(META_IDS) | JSON, "changes": st.lists(CHANGES, max_size=3)})
BODIES = st.fixed_dictionaries(
    {"object": st.just("whatsapp_business_account"), "entry": st.lists(ENTRIES | JSON, max_size=3)}
)


@given(BODIES | JSON, st.booleans())
def test_no_json_raises_or_leaks(document: Any, escaped: bool) -> None:
    body = json.dumps(document, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    events = parse(body, DIRECTORY)
    written = json.dumps(events, allow_nan=False)
    assert "\\u0000" not in written.replace("\\\\", "")
    assert json.dumps(events, ensure_ascii=False).encode()
    if isinstance(document, dict) and document.get("object") == "whatsapp_business_account":
        mentioned = {MAIN.phone_number_id, MAIN.waba_id}
        assert all(set(event) == KEYS for event in events)
        for event in events:
            if event["account_id"] == "main" and event["country_id"] == "MX":
                assert [meta_id for meta_id in mentioned if meta_id in json.dumps(event)] == []


def leaves(value: Any) -> set[str]:
    """Every scalar in a value that says something, as text; nothing of Meta's ids."""
    if isinstance(value, dict):
        return set().union(*(leaves(part) for name, part in value.items() if name not in META_ID_KEYS))
    if isinstance(value, list):
        return set().union(*map(leaves, value))
    return set() if value is None else {json.dumps(value)}


NAMES = st.sampled_from(["id", "type", "text", "body", "wa_id", "messages", "waba_id", "a"])
PLAIN = st.none() | st.booleans() | st.integers(-9, 10**12) | st.floats(-1, 1) | st.text(max_size=3) | NAMES
LITTLE = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES | st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)
PERSONS = st.fixed_dictionaries(
    {},
    optional={
        "wa_id": st.sampled_from(["5215512345678", "525512345678", "5491123456789", "MX.1A2b3C"]) | PLAIN,
        "user_id": st.sampled_from(["MX.1A2b3C", "AR.9Z"]) | PLAIN,
        "parent_user_id": st.just("MX.ENT.1") | PLAIN,
        "identity_key_hash": st.text(max_size=5),
        "profile": st.fixed_dictionaries({}, optional={"name": st.text(max_size=300), "username": st.text(max_size=5)})
        | LITTLE,
        "more": LITTLE,
    },
)
FROM = st.sampled_from(["5215512345678", "5491123456789", "MX.1A2b3C", "1-2@g.us"]) | PLAIN
ITEMS = st.fixed_dictionaries(
    {"id": st.sampled_from(["wamid.A", "wamid.B"]) | PLAIN},
    optional={
        "from": FROM,
        "recipient_id": FROM,
        "from_user_id": st.sampled_from(["MX.1A2b3C", "AR.9Z"]),
        "status": st.sampled_from(["sent", "failed", "warning"]) | PLAIN,
        "type": st.sampled_from(["text", "system", "request_welcome"]) | PLAIN,
        "event": st.sampled_from(["connect", "terminate"]),
        "text": LITTLE,
        "system": LITTLE,
        "errors": LITTLE,
        "timestamp": PLAIN,
    },
)
MANY = st.lists(ITEMS | LITTLE, max_size=3)
ROUTED = st.fixed_dictionaries(
    {"metadata": st.just({"phone_number_id": SOUTH.phone_number_id})},
    optional={
        "contacts": st.lists(PERSONS | LITTLE, max_size=3) | LITTLE,
        "messages": MANY | st.dictionaries(st.text(max_size=2), ITEMS) | LITTLE,
        "statuses": MANY | LITTLE,
        "calls": MANY | LITTLE,
        "user_preferences": MANY | LITTLE,
        "errors": MANY | LITTLE,
        "message_echoes": MANY,
        "user_actions": MANY | LITTLE,
        "conversation_context": LITTLE,
    },
)


@pytest.mark.parametrize(
    ("field", "name"), [("messages", "messages"), ("messages", "statuses"), ("user_preferences", "user_preferences")]
)
def test_what_should_be_a_list_and_is_none_needs_a_look(field: str, name: str) -> None:
    metadata = {"phone_number_id": SOUTH.phone_number_id}
    message = {"from": "5491112345678", "id": "wamid.1", "type": "text", "text": {"body": "hola"}}
    [event] = parse(one_change({"metadata": metadata, name: {"0": message}}, field), DIRECTORY)
    assert (event["kind"], event["country_id"], event["account_id"]) == ("unparsable", "AR", "main")
    assert event["payload"][name] == {"0": message}
    [nothing] = parse(one_change({"metadata": metadata, name: []}, field), DIRECTORY)
    assert nothing["kind"] == "ignored"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROUTED, st.sampled_from(["messages", "calls", "user_preferences", "account_update", "history"]))
def test_what_comes_in_with_a_value_is_in_its_events(value: dict[str, Any], field: str) -> None:
    body = one_change(value, field)
    items = [name for name in value if name != "metadata"]
    known = load(body)["entry"][0]["changes"][0]["value"]
    events = parse(body, DIRECTORY)
    assert {event["country_id"] for event in events} == {"AR"}
    kept = leaves([event["payload"] for event in events] + [event["contact"] for event in events])
    assert leaves({name: known[name] for name in items}) - kept == set()


def without(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {name: without(part, names) for name, part in value.items() if name not in names}
    return [without(part, names) for part in value] if isinstance(value, list) else value


def values_of(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(field, value) of each change of an example that is routed by its number."""
    document = load((PAYLOADS / f"{name}.json").read_bytes())
    for entry in document["entry"] if isinstance(document, dict) and isinstance(document.get("entry"), list) else ():
        for change in entry.get("changes", ()) if isinstance(entry, dict) else ():
            value = change.get("value")
            if isinstance(value, dict) and value.get("metadata", {}).get("phone_number_id") in META_IDS:
                yield change["field"], value


ROUTED_EXAMPLES = [example for name in sorted(CASES) for example in values_of(name)]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A routed example with something in its value bent: dropped, put elsewhere, of another kind, twice."""
    field, value = draw(st.sampled_from(ROUTED_EXAMPLES))
    value = json.loads(json.dumps(value))
    value["metadata"]["phone_number_id"] = SOUTH.phone_number_id
    for _ in range(draw(st.integers(1, 3))):
        holder: Any = value
        while True:
            names = [name for name in holder if name != "metadata"] if isinstance(holder, dict) else range(len(holder))
            if not names:
                break
            name: Any = draw(st.sampled_from(list(names)))
            if isinstance(holder[name], dict | list) and draw(st.booleans()):
                holder = holder[name]
                continue
            how = draw(st.sampled_from(["drop", "other", "wrap", "object", "rename", "twice"]))
            part = holder[name]
            if how == "drop":
                del holder[name]
            elif how == "other":
                holder[name] = draw(LITTLE)
            elif how == "wrap":
                holder[name] = [part]
            elif how == "object":
                holder[name] = {"0": part}
            elif isinstance(holder, list):
                holder.append(part)
            elif how == "rename":
                holder[draw(st.sampled_from(["messages", "statuses", "message_echoes", "contacts", "x"]))] = part
            break
    return field, value


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_what_comes_in_with_a_bent_example_is_in_its_events(bent: tuple[str, dict[str, Any]]) -> None:
    field, value = bent
    assume(not any(meta_id in json.dumps(value | {"metadata": None}) for meta_id in META_IDS))
    events = parse(one_change(value, field), DIRECTORY)
    kept = leaves([event["payload"] for event in events] + [event["contact"] for event in events])
    # A call's session (network addresses and keys) is left out on purpose.
    apart = ("metadata", "messaging_product", "session")
    assert leaves(without(value, apart)) - kept == set()
    assert {event["country_id"] for event in events} == {"AR"}


@given(st.binary())
def test_no_bytes_raise(body: bytes) -> None:
    assert isinstance(parse(body, DIRECTORY), list)
