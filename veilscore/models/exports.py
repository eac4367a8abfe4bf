"""Write the bank's part of a model in the format that somebody else's program reads."""

from typing import Literal

from veilscore.data.codes import CodeMap
from veilscore.models.bank_part import bank_part_json
from veilscore.models.model import ScoreModel
from veilscore.models.onnx_export import to_onnx
from veilscore.models.pmml_export import to_pmml

ExportFormat = Literal["json", "onnx", "pmml"]


def exported(model: ScoreModel, code_map: CodeMap, form: ExportFormat) -> bytes:
    """Return the file's content; ConfigError where the map is not the model's or the format cannot say what it does."""
    if form == "onnx":
        return to_onnx(model, code_map)
    return to_pmml(model, code_map) if form == "pmml" else bank_part_json(model, code_map).encode()
