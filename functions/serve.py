"""All functions behind one ASGI app, at /functions/v1/<name> and /<name>. Each folder also has an `app` of its own."""

from functions._shared.app import together
from functions.accounts.main import app as accounts
from functions.bulk_enqueue.main import app as bulk_enqueue
from functions.consents.main import app as consents
from functions.health.main import app as health
from functions.queue_drain.main import app as queue_drain
from functions.send.main import app as send
from functions.status_poll.main import app as status_poll
from functions.templates_sync.main import app as templates_sync
from functions.webhook.main import app as webhook

app = together([send, bulk_enqueue, consents, webhook, status_poll, queue_drain, templates_sync, accounts, health])
