"""Describes the door's HTTP form (OpenAPI 3.1) from the messages themselves; `docs/door.openapi.json` is a copy."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from veilscore.terms.door import (
    PROBLEMS,
    VERSION,
    DecisionAsked,
    DecisionReply,
    HealthAnswer,
    Problem,
    ScoreAnswer,
    ScoreAsked,
)

_REF = "#/components/schemas/{model}"
_MODELS: tuple[tuple[type[BaseModel], str], ...] = (
    (ScoreAsked, "validation"),
    (ScoreAnswer, "serialization"),
    (DecisionAsked, "validation"),
    (DecisionReply, "serialization"),
    (HealthAnswer, "serialization"),
    (Problem, "serialization"),
)


@cache
def openapi() -> dict[str, Any]:
    """Return the description."""
    _, schemas = models_json_schema(_MODELS, ref_template=_REF)  # type: ignore[arg-type]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Veilscore door",
            "version": VERSION,
            "description": "Scores of single firms and decisions on them for the loan systems of a bank. TLS 1.3 with "
            "a client certificate, always. Within a version fields of answers are added, never changed; readers skip "
            "those that they do not know.",
        },
        "paths": {
            "/v1/scores": {"post": _operation("score", "Score one firm now", ScoreAnswer, ScoreAsked)},
            "/v1/decisions": {"post": _operation("decide", "Decide on one firm now", DecisionReply, DecisionAsked)},
            "/v1/health": {"get": _operation("health", "Say that the door is open, and to whom", HealthAnswer)},
        },
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"certificate": {"type": "mutualTLS"}},
        },
        "security": [{"certificate": []}],
    }


def _operation(
    name: str, summary: str, answer: type[BaseModel], asked: type[BaseModel] | None = None
) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for kind, (status, _, title, again) in PROBLEMS.items():
        if asked is not None or kind in {"not-admitted", "internal"}:
            by_status.setdefault(status, []).append(f"{kind}: {title}{'; may be repeated' if again else ''}")
    problem = {"application/problem+json": {"schema": _named(Problem)}}
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {"description": summary, "content": {"application/json": {"schema": _named(answer)}}},
            **{str(s): {"description": ". ".join(said), "content": problem} for s, said in sorted(by_status.items())},
        },
    }
    if asked is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _named(asked)}}}
    return operation


def _named(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}
