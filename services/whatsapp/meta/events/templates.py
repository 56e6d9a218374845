"""What became of a template. Source: M:webhooks/reference/message_template_status_update and its neighbours."""

from services.whatsapp.directory import Directory
from services.whatsapp.meta.events.event import Kind
from services.whatsapp.meta.events.values import Json


def about_template(_value: Json, _directory: Directory) -> Kind:
    return "template"
