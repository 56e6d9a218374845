"""Bodies nobody wrote by hand: each is answered 200, kept, and changes nothing when it comes again."""

from tests.faults import bodies
from tests.local.stack import running_stack


async def test_whatever_meta_signs_is_taken_once() -> None:
    generated = list(bodies.generate(1_500, seed=7))
    with running_stack(functions_env=bodies.environment()) as stack:
        figures, broken = await bodies.throw(stack, generated, again=300)

    assert broken == []
    assert figures["events"] > 1_500
