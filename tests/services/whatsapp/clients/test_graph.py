"""What Meta's answer to a POST says of the message, one payload file an answer."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.whatsapp.clients.graph import read_answer

ANSWERS = sorted((Path(__file__).parents[3] / "payloads" / "answers").glob("*.json"))


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
def test_an_answer(path: Path) -> None:
    case: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    body = case["body"] if isinstance(case["body"], str) else json.dumps(case["body"])
    answer = read_answer(case["status"], body.encode())

    assert answer.outcome == case["outcome"]
    assert {name: getattr(answer, name) for name in ("wamid", "wa_id", "note") if name in case} == {
        name: case[name] for name in ("wamid", "wa_id", "note") if name in case
    }
    if case["outcome"] == "refused":
        assert answer.failure is not None
        told = answer.failure.as_dict()
        assert {name: told[name] for name in ("code", "disposition", "effect")} == {
            name: case[name] for name in ("code", "disposition", "effect")
        }
