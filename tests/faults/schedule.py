"""Which fault comes when: drawn from a seed, so that a run can be repeated, and printed, so that it can be read."""

from dataclasses import dataclass
from random import Random

WEIGHTS = {
    # processes of ours
    "kill a drainer": 12,
    "kill a function": 10,
    "terminate a drainer": 5,
    "terminate a function": 5,
    "freeze a drainer": 4,
    "eight drainers": 3,
    # the database and the way to it
    "crash postgres": 4,
    "crash a backend": 4,
    "stop postgres at once": 3,
    "kill the gateway": 5,
    "gateway answers errors": 8,
    "gateway answers pages": 4,
    "gateway cuts requests": 6,
    "gateway loses answers": 8,
    "gateway is late": 4,
    # Meta
    "lost answers": 8,
    "lost answers, silence": 2,
    "late answers": 4,
    "no answers": 4,
    "errors with an object": 5,
    "errors without an object": 5,
    "too fast": 3,
    "connections cut": 5,
    "connections refused": 4,
    "requests unread": 4,
    # webhooks
    "webhooks lost": 5,
    "webhooks held back": 5,
    # everything
    "everything away": 1,
}
"""The kinds of faults, and how often each comes."""

MOST_AWAY = 6
"""Outages of everything last longer than the deadline of unknown outcomes: a run has few."""


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """A kind of fault at a time, in seconds after the beginning; `seed` decides its details."""

    at: float
    kind: str
    seed: int

    def __str__(self) -> str:
        return f"{self.at:8.1f} s  {self.kind}"


def draw(seed: int, faults: int, seconds: float) -> list[Fault]:
    """`faults` faults within `seconds`: each kind once if there is room, the rest by weight."""
    random = Random(seed)
    kinds = list(WEIGHTS)
    random.shuffle(kinds)
    kinds = kinds[:faults]
    while len(kinds) < faults:
        [kind] = random.choices(list(WEIGHTS), list(WEIGHTS.values()))
        if kind != "everything away" or kinds.count(kind) < MOST_AWAY:
            kinds.append(kind)
    return sorted(Fault(random.uniform(0, seconds), kind, random.getrandbits(32)) for kind in kinds)
