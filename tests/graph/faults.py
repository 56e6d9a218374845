"""The script of faults of the stand-in for Meta (tests only): what shall go wrong, for whom, how often."""

from dataclasses import dataclass
from typing import Literal

from tests.graph.messages import Letter

Kind = Literal["error", "server_error", "lose_answer", "hang", "slow", "hold", "fail_later", "take"]


@dataclass(slots=True)
class Fault:
    """One line of the script; it applies to the next `times` valid messages that match (None: until cleared).

    error         answer Meta's error `code` (`http_status`, `details`, `subcode` may be given); not accepted
    server_error  answer `http_status` (502) with a `body` that is not JSON; accepted first if `accept`
    lose_answer   accept, then close the connection without an answer
    hang          no answer at all, or after `seconds`; accepted if `accept`
    slow          accept, answer after `seconds`
    hold          accept as `held_for_quality_assessment`: no status webhook until one is pushed
    fail_later    accept, then a `failed` status webhook with `code`
    take          accept and answer as if nothing were wrong

    With `mute`, every status webhook of what is accepted is lost.
    """

    kind: Kind
    times: int | None = 1
    number: str | None = None
    to: str | None = None
    template: str | None = None
    callback_data: str | None = None
    type: str | None = None
    code: int = 131000
    http_status: int | None = None
    subcode: int | None = None
    details: str = ""
    body: str = "<html><body><h1>502 Bad Gateway</h1></body></html>"
    seconds: float | None = None
    accept: bool = False
    mute: bool = False

    def matches(self, number_id: str, letter: Letter) -> bool:
        return (
            self.number in (None, number_id)
            and self.to in (None, letter.address, letter.person.wa_id, letter.person.user_id)
            and self.template in (None, letter.template_name)
            and self.callback_data in (None, letter.callback_data)
            and self.type in (None, letter.type)
        )


class Faults:
    """The script, in order: the first line that matches is played."""

    def __init__(self) -> None:
        self.script: list[Fault] = []
        self.close_unread = 0

    def take(self, number_id: str, letter: Letter) -> Fault | None:
        """The fault of this message, used up by one; None when all shall go well."""
        for fault in self.script:
            if fault.matches(number_id, letter):
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self.script.remove(fault)
                return fault
        return None

    def take_close(self) -> bool:
        """True when the request that begins now shall find its connection closed before it is read."""
        if self.close_unread <= 0:
            return False
        self.close_unread -= 1
        return True
