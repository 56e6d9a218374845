"""Who acts: a trusted server, or a member by their own token. There is no third, and nobody is the default.

Whoever acts is named where something is written or read, by everything on the way from a function to the database:
an argument that was forgotten is an error of types, and never the server's right to everything.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Server:
    """A server that holds a secret key: it may do everything in every country, past row level security."""

    key_name: str = field(default="default", compare=False)

    @property
    def member_id(self) -> None:
        """As the verbs name who acts: nobody, whose membership none of them asks for."""
        return


@dataclass(frozen=True, slots=True)
class Member:
    """A signed-in user. What they may do is decided by the database, from `members`."""

    user_id: str
    token: str = field(repr=False)
    """Their own JWT: reads that carry it are judged by row level security."""

    @property
    def member_id(self) -> str:
        """As the verbs name who acts."""
        return self.user_id


Actor = Server | Member
