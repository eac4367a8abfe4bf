"""`veilscore dataset describe` proposes lines that node.yaml takes, and shows no value of a row."""

import pytest
import yaml
from typer.testing import CliRunner

from veilscore.cli.dataset import app
from veilscore.data.describe import describe, proposal
from veilscore.data.ingest import read_table
from veilscore.errors import DataError
from veilscore.terms.node_config import DatasetConfig
from veilscore.terms.reading import NOTHING_SAID
from veilscore.terms.settings import parse, parse_yaml


@pytest.fixture
def path(tmp_path):
    lines = ["uscc,turnover,opened,day,score,remarks,sector,no,code,iso,营业额"]
    lines += [
        f'f{i},"1,{i % 1000:03d}.50",{i % 28 + 1}.02.2024,0{i % 9 + 1}/0{i % 8 + 1}/2024,{-999 if i % 5 == 0 else i},'
        f"SECRET{i},{'AB'[i % 2]},-,0{i % 7},2024-01-0{i % 9 + 1},{i}"
        for i in range(1500)
    ]
    (tmp_path / "firms.csv").write_text("\n".join(lines), encoding="gb18030")
    return tmp_path / "firms.csv"


def test_a_file_becomes_a_data_set(path):
    done = CliRunner().invoke(app, ["describe", str(path), "--id", "uscc"])
    assert done.exit_code == 0, done.output
    assert "SECRET" not in done.output
    said = yaml.safe_load(done.output)["datasets"]["main"]
    assert said["kinds"] == {
        "turnover": "number", "opened": "date", "day": "ignore", "score": "number", "remarks": "text",
        "sector": "category", "no": "category", "code": "category", "iso": "date", "营业额": "number",
    }  # fmt: skip
    assert said["special"] == {"score": [-999]}
    assert said["encoding"] == "gb18030"
    assert "day: ignore  # column 'day' of firms.csv can be read in two ways" in done.output
    entry = parse(DatasetConfig, parse_yaml(done.output, "proposal")["datasets"]["main"], "proposal")
    table = read_table(path, "uscc", normaliser="text", rules=entry)
    assert list(table.columns) == ["turnover", "opened", "score", "sector", "no", "code", "iso", "营业额"]
    assert table.special == {"score": (-999.0,)}
    again = proposal(describe(path, entry, ("uscc",)), "", "")
    assert yaml.safe_load(again)["kinds"] == said["kinds"]


def test_what_is_no_table_is_refused(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xd0\xcf\x11\xe0")
    with pytest.raises(DataError, match="old kind"):
        describe(tmp_path / "x.csv", NOTHING_SAID, ())
