"""Reading a filed model of any kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import overload

from pydantic import ValidationError

from veilscore.errors import ConfigError
from veilscore.models.boosted import Boosted, Stacked
from veilscore.models.model import M, Scorecard, ScoreModel


@overload
def load_model(path: Path) -> ScoreModel: ...


@overload
def load_model(path: Path, kind: type[M]) -> M: ...


def load_model(path: Path, kind: type[ScoreModel] = ScoreModel) -> ScoreModel:
    """Read a model of any kind and check its hash; ConfigError says what is wrong, or that it is not of this kind."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        kinds = {cls.model_fields["format"].default: cls for cls in (Scorecard, Boosted, Stacked)}
        model = kinds[body["model"]["format"]].model_validate(body["model"])
        stated = body["sha256"]
    except FileNotFoundError:
        raise ConfigError(f"model not found: {path}; `veilscore model list` shows what there is") from None
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ConfigError(f"{path} is not a Veilscore model: {type(error).__name__}; restore it from backup") from error
    if model.sha256.hex() != stated:
        raise ConfigError(f"{path} was changed after training: its hash does not match; restore it from backup")
    if not isinstance(model, kind):
        raise ConfigError(f"model {model.name} is of format {model.format}, which this cannot use")
    return model
