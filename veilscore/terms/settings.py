"""How files that a user writes (job, node, policy) are read: strictly, with errors that name the key.

YAML is read without custom tags, aliases (they can grow without bound) or doubled keys; unknown keys are
refused and the nearest known one is named.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from veilscore.errors import ConfigError

MAX_YAML_BYTES = 1 << 20


class Strict(BaseModel):
    """Base of every model that a user types: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            known = list(cls.model_fields)
            for key in data:
                if key not in known:
                    near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
                    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
                    raise ValueError(f"unknown key {str(key)[:60]!r}; {hint}")
        return data


class _StrictLoader(yaml.SafeLoader):
    """Safe loader that also refuses aliases and doubled keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - signature of the base class
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key!r} stands twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


S = TypeVar("S", bound=BaseModel)


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Parse a YAML mapping.

    Raises
    ------
    ConfigError
        not YAML, too long, not a mapping; the message names `source` and the line.
    """
    if len(text.encode()) > MAX_YAML_BYTES:
        raise ConfigError(f"{source}: longer than {MAX_YAML_BYTES} bytes")
    try:
        data = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{source}{line}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: expected a mapping (key: value), got {type(data).__name__}")
    return data


def parse(model: type[S], data: object, source: str) -> S:
    """Validate `data` as `model`; every problem becomes one line of a `ConfigError`."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(explain(error))) from error


def explain(error: ValidationError) -> list[str]:
    """One readable line a problem: the path of the key, then what is wrong."""
    lines = []
    for item in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in item["loc"])
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "missing":
            text = "is missing"
        lines.append(f"{where}: {text}" if where else text)
    return lines


def read_text(path: Path, what: str) -> str:
    """Text of a file the user names; ConfigError with `what` it should have been otherwise."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{what} not found: {path}; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path} cannot be read: {error}") from error


def load(model: type[S], path: Path, what: str) -> S:
    """Read and validate one YAML file."""
    return parse(model, parse_yaml(read_text(path, what), str(path)), str(path))
