"""Excel workbooks written by two other libraries (vectors/excel/make.py): the values as they are stored."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from veilscore.data.ingest import list_columns, read_table
from veilscore.errors import ColumnError, DataError, IdError
from veilscore.terms.reading import ReadingRules

HERE = Path(__file__).parent / "vectors" / "excel"


@pytest.mark.parametrize("name", ["openpyxl.xlsx", "xlsxwriter.xlsx", "from_1904.xlsx"])
def test_cells_of_every_type(name, tmp_path):
    path = tmp_path / "given.csv"  # what a file is, its content says
    path.write_bytes((HERE / name).read_bytes())
    table = read_table(path, "uscc", normaliser="text")
    assert table.ids.tolist() == ["A1", "B2", "C3"]
    expected = {
        "turnover": [1627.51, -3, np.nan],
        "share": [0.0163, 1, 0],
        "opened": [19727, 10956, np.nan],
        "seen": [19727.5625, 10956, np.nan],
        "flag": [1, 0, np.nan],
        "big": [9.111e17, 0.1, 5],
    }
    for column, values in expected.items():
        np.testing.assert_array_equal(table.columns[column], values, err_msg=column)
    assert table.columns["sector"].tolist() == ["餐饮", "=x\n<&>", None]
    assert table.columns["code"].tolist() == ["0111", "007", "010"]
    assert table.warnings == ()


def test_sheets():
    path = HERE / "refused.xlsx"
    with pytest.raises(DataError, match="has the sheets merged, formula, outside, other; name one"):
        list_columns(path)
    assert list_columns(path, rules=ReadingRules(sheet="other")) == ("uscc", "x")
    with pytest.raises(DataError, match="has no sheet 'others'"):
        list_columns(path, rules=ReadingRules(sheet="others"))
    for sheet, match in (("merged", r"merged cells .A3:A4.*unmerge"), ("outside", r"row 2 .*does not name")):
        with pytest.raises(ColumnError, match=match):
            read_table(path, "uscc", normaliser="text", rules=ReadingRules(sheet=sheet))
    with pytest.raises(IdError, match=r"1 empty \(row 2\)"):  # the value of the formula is read
        read_table(path, "uscc", normaliser="text", rules=ReadingRules(sheet="formula"))
    with pytest.raises(ColumnError, match=r"row 2 of no_value\.xlsx has a formula without its value"):
        read_table(HERE / "no_value.xlsx", "uscc", normaliser="text")


def test_long_ids_that_excel_has_rounded_are_named(tmp_path):
    with pytest.raises(IdError, match="in scientific notation"):
        read_table(HERE / "openpyxl.xlsx", "big", normaliser="text")


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"a.csv": "x"}, "a ZIP archive; unpack it"),
        ({"content.xml": "x"}, "an OpenDocument file"),
        ({"xl/workbook.bin": "x"}, "a binary workbook"),
        ({"xl/workbook.xml": "<x"}, "a damaged workbook"),
        ({"xl/workbook.xml": "<workbook/>", "xl/_rels/workbook.xml.rels": "<x/>"}, "no visible sheet"),
        ({"xl/workbook.xml": '<!DOCTYPE x [<!ENTITY a "b">]><workbook>&c;</workbook>'}, "a damaged workbook"),
    ],
)
def test_archives_that_are_no_workbook(tmp_path, parts, match):
    with zipfile.ZipFile(tmp_path / "x.xlsx", "w") as book:
        for name, text in parts.items():
            book.writestr(name, text)
    with pytest.raises(DataError, match=match):
        read_table(tmp_path / "x.xlsx", "uscc")
