"""Files that a user writes (job, node, policy) are read strictly, with errors that name the key; so is JSON of others.

YAML is read without custom tags, aliases (they can grow without bound) or doubled keys; unknown keys are
refused and the nearest known one is named.
"""

from __future__ import annotations

import datetime as dt
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from veilscore.errors import ConfigError

MAX_YAML_BYTES = 1 << 20
_LONGEST_NUMBER = 400  # a double has at most 309 digits before the point; 1:1:1... of base 60 takes quadratic time
_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}

VariableName = Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")]  # of the environment


class Strict(BaseModel):
    """Base of every model that a user types: it is frozen and refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in data:
                if key not in known:
                    raise ValueError(f"unknown key {str(key)[:60]!r}; {nearest(str(key), known)}")
        return data


def nearest(word: str, known: Sequence[str]) -> str:
    """Return the known word that somebody may have meant, as a question, or all of them."""
    near = difflib.get_close_matches(word[:200], known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


class _StrictLoader(yaml.SafeLoader):
    """Safe loader that also refuses aliases, doubled keys, and values that cannot be what they look like."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - signature of the base class
        if isinstance(node, yaml.ScalarNode) and len(node.value) > _LONGEST_NUMBER and node.tag in _NUMBERS:
            raise yaml.constructor.ConstructorError(None, None, "a number is too long", node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
            # what PyYAML raises of 2026-99-99, 0b_, !!bool x and the like
            problem = f"a value cannot be read as {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - signature of the base class
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():  # a scalar may be tagged !!map
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key!r} stands twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


S = TypeVar("S", bound=BaseModel)


def parse_yaml(text: str, source: str, most_bytes: int = MAX_YAML_BYTES) -> dict[str, Any]:
    """Return the mapping that a YAML text holds; for any other text a ConfigError names `source` and the line."""
    if len(text.encode(errors="surrogatepass")) > most_bytes:
        raise ConfigError(f"{source}: longer than {most_bytes} bytes")
    try:
        data = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{source}{line}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: expected a mapping (key: value), got {type(data).__name__}")
    return data


def parse_json(data: bytes | str) -> Any:
    """Return the value of JSON text from anywhere; ValueError for any other text, also for one nested too deeply."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error


def parse(model: type[S], data: object, source: str) -> S:
    """Return `data` validated as `model`; a ConfigError has every problem."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(explain(error))) from error


def explain(error: ValidationError) -> list[str]:
    """Return one readable line a problem: the path of the key (the first of a list is 1), then what is wrong."""
    lines = []
    for item in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part + 1 if isinstance(part, int) else part) for part in item["loc"])
        plain = {"missing": "is missing", "extra_forbidden": "unknown key"}
        text = plain.get(item["type"], item["msg"].removeprefix("Value error, "))
        lines.append(f"{where}: {text}" if where else text)
    return lines


def read_day(text: str, option: str) -> dt.date:
    """Return the day that a person wrote for an option; ConfigError where it is no date."""
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} {text[:40]!r} is no date; write YYYY-MM-DD") from None


def read_text(path: Path, what: str) -> str:
    """Return the text of a file that the user names; ConfigError says `what` it should have been."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{what} not found: {path}; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path} cannot be read: {error}") from error


def load(model: type[S], path: Path, what: str) -> S:
    """Return one YAML file, validated as `model`; ConfigError names the key at fault."""
    return parse(model, parse_yaml(read_text(path, what), str(path)), str(path))
