"""What the functions are asked, a file a function: models that read it, refuse it and describe it. See `request`.

Nothing is imported here but what is light: who needs a model imports its file.
"""

from hashlib import blake2b

import orjson


def fingerprint(said: object) -> str:
    """A digest of what was said, by which a repeated key is told from a reused one."""
    return blake2b(orjson.dumps(said, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()
