"""What must be exactly so. A check that fails is shown where it fails, and the demo exits 1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.demo.figures import Figures, Reach
from tests.demo.screen import Row, Screen

EXACT = (
    ("logged", "in our log", 1),
    ("accepted", "accepted by the stand-in for Meta", 1),
    ("twice", "accepted twice", 0),
    ("lost", "never arrived", 0),
    ("strays", "arrived from the wrong country", 0),
    ("read", "read", 1),
    ("status_events", "status events in the log, three a message", 3),
)
"""A member of Figures, its words, and how many there must be for every message that was answered 202."""
REACHED = (
    ("once", "got it once", 1),
    ("twice", "got it twice", 0),
    ("never", "never got it", 0),
    ("uninvited", "got it though their row was refused", 0),
    ("mixed_up", "got what another row says", 0),
    ("elsewhere", "got it from another number or country", 0),
)
"""The same of Reach, for every person a campaign accepted."""


@dataclass
class Checks:
    screen: Screen
    failed: list[str] = field(default_factory=list)

    def expect(self, what: str, actual: object, wanted: object) -> None:
        """Show `what` with a tick, or with what came instead of what was wanted."""
        if actual == wanted:
            self.screen.tick(what)
        else:
            self.failed.append(f"{what}: {actual} instead of {wanted}")
            self.screen.cross(self.failed[-1])

    def rows(
        self,
        figures: Mapping[str, Figures] | Mapping[str, Reach],
        sent: Mapping[str, int],
        exact: Sequence[tuple[str, str, int]],
        promised: str,
    ) -> list[Row]:
        """The rows of a table. `sent` is how many messages were `promised` in each country, `exact` what follows."""
        rows = [Row(promised, [sent[country] for country in figures], True)]
        for member, words, each in exact:
            counts = {country: getattr(one, member) for country, one in figures.items()}
            wanted = {country: each * sent[country] for country in figures}
            if counts != wanted:
                self.failed.append(f"{words}: {counts} instead of {wanted}")
            rows.append(Row(words, list(counts.values()), counts == wanted))
        return rows
