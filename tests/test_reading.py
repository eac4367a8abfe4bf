"""Numbers, dates, missing words, ids and files as they come: the right value, or a refusal that says what to do."""

import datetime as dt
import gzip
import time

import duckdb
import numpy as np
import pytest

from veilscore.data.ids import check_ids, id_warnings, normalise_ids
from veilscore.data.ingest import list_columns, read_table
from veilscore.data.table import make_table
from veilscore.errors import ColumnError, ConfigError, DataError, IdError
from veilscore.terms.reading import ReadingRules
from veilscore.terms.settings import parse


def rules(**said):
    return parse(ReadingRules, said, "rules")


def write(path, columns, separator=";"):
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    lines = [separator.join(["id", *map(str, rows[0])])]
    lines += [separator.join([f"f{i}", *(f'"{cell}"' for cell in row)]) for i, row in enumerate(rows[1:])]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(path, **options):
    return read_table(path, "id", normaliser="text", **options)


def column(tmp_path, cells, **said):
    """Read one column of text from CSV, and from memory; both must agree where neither is plain."""
    options = {"rules": rules(**said)} if said else {}
    return read(write(tmp_path / "x.csv", {"x": cells}), **options)


def day(text):
    return (dt.datetime.fromisoformat(text + ("" if "T" in text else "T00") + "+00:00")).timestamp() / 86400


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1,627.51", "12", "-3.5"], [1627.51, 12, -3.5]),
        (["1.627,51", "12", "-3,5"], [1627.51, 12, -3.5]),
        (["1 627,51", "12\u00a0345", "0,5"], [1627.51, 12345, 0.5]),
        (["1'627.51", "12", "7"], [1627.51, 12, 7]),
        (["12,34,567.5", "1,000.25", "5"], [1234567.5, 1000.25, 5]),
        (["1,234,567", "900", "1,000"], [1234567, 900, 1000]),
        (["1.63%", "100%", "0"], [0.0163, 1, 0]),
        (["5‰", "10‰", "1‰"], [0.005, 0.01, 0.001]),
        (["１２３．５", "７", "－８"], [123.5, 7, -8]),
        (["¥1,200.50", "￥3", "5元"], [1200.5, 3, 5]),
        (["$5.10", "-$6.20", "$1,234,567"], [5.1, -6.2, 1234567]),
        (["1.234,50 €", "5 €", "0,10 €"], [1234.5, 5, 0.1]),
        (["CNY 100.5", "200.25", "RMB 3"], [100.5, 200.25, 3]),
        (["3.3万", "1.1亿", "900"], [33000, 110000000, 900]),
        (["2万元", "1.5亿元", "800元"], [20000, 150000000, 800]),
        (["(1,234.50)", "2", "(3)"], [-1234.5, 2, -3]),
        (["1,234.50-", "2", "3-"], [-1234.5, 2, -3]),
        (["−5", "+6", "7"], [-5, 6, 7]),
        (["٣٫٥", "١٢", "٠٫٥"], [3.5, 12, 0.5]),
        ([" 5 ", "\u30006", "\ufeff7\u200b"], [5, 6, 7]),
        (["1.5e-05", "2E+3", "1.0E2"], [1.5e-05, 2000, 100]),
        (["12,3456", "1,2345,6789", "5"], [123456, 123456789, 5]),
        (["12,5", "0,500", "1,234"], [12.5, 0.5, 1.234]),
    ],
)
def test_numbers_in_other_notations(tmp_path, cells, values):
    table = column(tmp_path, cells)
    assert table.columns["x"].tolist() == values
    if table.warnings:  # where the text is not plain, a data frame of it gives the same
        assert "is read as" in table.warnings[0]
        again = make_table(["a", "b", "c"], {"x": cells}, normaliser="text")
        assert again.columns["x"].tolist() == values


@pytest.mark.parametrize(
    "cells", [["0111", "1E2", "203"], ["1_1", "22", "3"], ["007", "008", "010"], ["1e5", "2e5", "7"]]
)
def test_codes_stay_codes_unless_they_are_declared_numbers(tmp_path, cells):
    assert column(tmp_path, cells).columns["x"].tolist() == cells
    numbers = column(tmp_path, cells, kinds={"x": "number"}).columns["x"]
    assert numbers.tolist() == [float(cell) for cell in cells]


@pytest.mark.parametrize(
    ("cells", "match"),
    [
        (
            ["1,234", "5,678", "12"],
            r"two ways, as numbers such as 1,234\.5 and as numbers with a decimal comma.*formats",
        ),
        (["¥1.234", "¥5.678", "¥12"], "two ways"),
        (["5%", "3", "2%"], "percentages in 2 of 3"),
        (["$5", "€6", "$7"], "2 currencies"),
        (["1,234.5", "1.234,5", "2,5"], "mixed type"),
        (["1.5", "007", "3.25"], r"mixed type: 2 of 3 .*leading zeros"),
        (["1.5", "n.v.", "3"], "mixed type: 2 of 3"),
        (["1,500.5", "about 3", "2,000.5"], r"2 of 3 filled cells are numbers such as 1,234\.5"),
    ],
)
def test_numbers_in_doubt_are_refused_by_name(tmp_path, cells, match):
    with pytest.raises(ColumnError, match=match) as caught:
        column(tmp_path, cells)
    assert "'x'" in str(caught.value)
    assert column(tmp_path, cells, kinds={"x": "category"}).columns["x"].tolist() == cells


def test_declared_formats_decide(tmp_path):
    cells = ["1,234", "5,678", "12"]
    assert column(tmp_path, cells, formats={"x": "1,234.5"}).columns["x"].tolist() == [1234, 5678, 12]
    assert column(tmp_path, cells, formats={"x": "1.234,5"}).columns["x"].tolist() == [1.234, 5.678, 12]
    path = write(tmp_path / "y.csv", {"x": ["1.234", "5.678", "9.100"], "y": ["0,5", "1,25", "2"]})
    with pytest.raises(
        ColumnError, match=r"'x' .*two ways, as plain numbers and as thousands.*'y' has a decimal comma"
    ):
        read(path)
    assert read(path, rules=rules(formats={"x": "1.234,5"})).columns["x"].tolist() == [1234, 5678, 9100]
    assert read(path, rules=rules(kinds={"x": "number"})).columns["x"].tolist() == [1.234, 5.678, 9.1]


def test_numbers_with_units_in_letters_are_refused_when_they_are_many(tmp_path):
    terms = ["12 months", "36 months", "24 months"]
    assert column(tmp_path, terms).columns["x"].tolist() == terms
    with pytest.raises(ColumnError, match="numbers with a unit in letters, in 60 of 60"):
        column(tmp_path, [f"{k} kg" for k in range(60)])


def test_one_late_cell_decides_the_whole_column(tmp_path):
    n = 3000
    assert column(tmp_path, ["12"] * n + ["1,234.5"]).columns["x"][-1] == 1234.5
    assert column(tmp_path, ["0"] * n + ["0111"]).kinds == {"x": "category"}
    assert column(tmp_path, [""] * n + ["5"] * 3).columns["x"][-1] == 5
    with pytest.raises(ColumnError, match=f"{n} of {n + 1}"):
        column(tmp_path, ["5"] * n + ["five"])


# --- missing and special ---------------------------------------------------------------------------------------------


def test_words_for_missing(tmp_path):
    cells = ["5", "#N/A", "-", "None", "\\N", "无", "6", "<NA>", " "]
    table = column(tmp_path, cells)
    assert np.isnan(table.columns["x"]).tolist() == [False, True, True, True, True, True, False, True, True]
    assert "3 cells with a sign or word for missing" in table.warnings[0]
    levels = column(tmp_path, ["None", "pledge", "-", "无", "\\N", "", "x", "y", "z"])
    assert levels.columns["x"].tolist() == ["None", "pledge", "-", "无", None, None, "x", "y", "z"]
    declared = column(tmp_path, ["None", "pledge", "-", "x"], missing={"x": ["-"], "*": ["None"]})
    assert declared.columns["x"].tolist() == [None, "pledge", None, "x"]
    with pytest.raises(ColumnError, match="mixed type: 1 of 2"):  # who declares some words has said which
        column(tmp_path, ["5", "-", "gone"], missing={"x": ["gone"]})


def test_numbers_that_stand_for_missing(tmp_path):
    said = {"missing": {"x": [-999]}}
    assert np.isnan(column(tmp_path, ["-999", "1", "-999.0"], **said).columns["x"]).tolist() == [True, False, True]
    frame = make_table(["a", "b"], {"x": np.array([-999.0, 2])}, normaliser="text", rules=rules(**said))
    assert np.isnan(frame.columns["x"]).tolist() == [True, False]


def test_special_values_are_of_the_kind_of_their_column(tmp_path):
    table = column(tmp_path, ["-999", "1", "2"], special={"x": [-999]})
    assert table.special == {"x": (-999.0,)}
    with pytest.raises(ColumnError, match="must be numbers without quotes"):
        column(tmp_path, ["-999", "1", "2"], special={"x": ["-999"]})
    for said, match in (
        ({"special": {"x": []}}, "1 to 8"),
        ({"missing": {"x": [False]}}, "quote it"),
        ({"kinds": {"x": "numeric"}}, "kinds.x"),
        ({"formats": {"x": "%d"}, "kinds": {"x": "category"}}, "formats.x"),
        ({"zone": "Beijing; --"}, "zone"),
        ({"encoding": "klingon"}, "encoding"),
    ):
        with pytest.raises(ConfigError, match=match):
            rules(**said)


def test_kinds_left_out_and_columns_that_are_not_there(tmp_path):
    path = write(tmp_path / "x.csv", {"n": ["1", "2"], "remarks": ["a", "b"], "no": ["1", "2"]})
    said = rules(kinds={"remarks": "text", "no": "ignore"})
    assert list(read(path, rules=said).columns) == ["n"]
    assert list_columns(path, rules=said) == ("id", "n", "remarks", "no")
    with pytest.raises(ColumnError, match="no column 'remark'; did you mean 'remarks'"):
        read(path, rules=rules(kinds={"remark": "text"}))


# --- dates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["31.12.2023", "05.01.2024", "1.2.2024"], ["2023-12-31", "2024-01-05", "2024-02-01"]),
        (["31/12/2023", "05/01/2024", "1/2/2024"], ["2023-12-31", "2024-01-05", "2024-02-01"]),
        (["12/31/2023", "01/05/2024 13:30", "2/1/2024"], ["2023-12-31", "2024-01-05T13:30", "2024-02-01"]),
        (["12/31/2023 1:30:00 PM", "1/5/2024 12:00 AM", "2/1/2024"], ["2023-12-31T13:30", "2024-01-05", "2024-02-01"]),
        (["2023年12月31日", "2024年1月5日", "2024年01月05号"], ["2023-12-31", "2024-01-05", "2024-01-05"]),
        (["2023/12/31", "2024/1/5", "2024.02.01 08:00:00"], ["2023-12-31", "2024-01-05", "2024-02-01T08:00"]),
        (["5 Jan 2024", "31-Dec-2023", "January 5, 2024"], ["2024-01-05", "2023-12-31", "2024-01-05"]),
        (["05JAN2024", "31DEC2023", "1 March 2024"], ["2024-01-05", "2023-12-31", "2024-03-01"]),
        (["２０２４－０１－０５", "2024-01-06", "无"], ["2024-01-05", "2024-01-06", None]),
        (["2024-01-05 23:30:00", "0000-00-00", "2024-01-06"], ["2024-01-05T23:30", None, "2024-01-06"]),
    ],
)
def test_dates(tmp_path, cells, values):
    found = column(tmp_path, cells)
    np.testing.assert_array_equal(found.columns["x"], [np.nan if v is None else day(v) for v in values])
    again = make_table(["a", "b", "c"], {"x": cells}, normaliser="text")
    np.testing.assert_array_equal(again.columns["x"], found.columns["x"])


@pytest.mark.parametrize(
    ("cells", "match"),
    [
        (["03/04/2024", "05/06/2024"], r"with the day first and as dates with the month first.*%d/%m/%Y.*%m/%d/%Y"),
        (["03/04/24", "31/12/23"], "two-digit years.*formats"),
        (["05-JAN-24", "31-DEC-23"], "two-digit years"),
        (["2024-02-30", "2024-01-05"], "mixed type: 1 of 2 filled cells are dates such as 2024-01-05"),
        (["2024-01-05", "2024-01-05T08:00:00+08:00"], "mixed type: 1 of 2"),
        (["2024-01-05", "soon"], "mixed type: 1 of 2"),
    ],
)
def test_dates_in_doubt_are_refused_by_name(tmp_path, cells, match):
    with pytest.raises(ColumnError, match=match):
        column(tmp_path, cells)


def test_declared_dates(tmp_path):
    def first(cell, **said):
        return column(tmp_path, [cell, ""], **said).columns["x"][0]

    assert first("03/04/2024", formats={"x": "%d/%m/%Y"}) == day("2024-04-03")
    assert first("03/04/2024", formats={"x": "%m/%d/%Y"}) == day("2024-03-04")
    assert first("05-JAN-24", formats={"x": "%d-%b-%y"}) == day("2024-01-05")
    assert first("20240105", kinds={"x": "date"}) == day("2024-01-05")
    assert first("45296.5", formats={"x": "excel"}) == day("2024-01-05T12:00")
    assert first("43834", formats={"x": "excel1904"}) == day("2024-01-05")
    assert first("2024-01", formats={"x": "%Y-%m"}) == day("2024-01-01")
    with pytest.raises(ConfigError, match="format 'dmy' is unknown"):
        first("03/04/2024", formats={"x": "dmy"})
    table = column(tmp_path, ["20240105", "20231231"])
    assert table.columns["x"].tolist() == [20240105, 20231231]
    assert "look like dates (20240105)" in table.warnings[0]
    numbers = make_table(["a"], {"x": [20240105]}, normaliser="text", rules=rules(kinds={"x": "date"}))
    assert numbers.columns["x"].tolist() == [day("2024-01-05")]


def test_a_moment_has_the_day_of_the_declared_zone_wherever_the_machine_stands(tmp_path, monkeypatch):
    csv, parquet = tmp_path / "x.csv", tmp_path / "x.parquet"
    write(csv, {"x": ["2024-01-05T20:00:00Z", "2024-01-05 20:00:00+00:00"]})
    moment = "TIMESTAMPTZ '2024-01-05 20:00:00+00'"
    duckdb.execute(f"COPY (SELECT 'f' || i AS id, {moment} AS x FROM range(2) t(i)) TO '{parquet}' (FORMAT parquet)")  # noqa: S608
    aware = np.array([dt.datetime(2024, 1, 5, 20, tzinfo=dt.UTC)] * 2, dtype=object)
    for machine in ("America/New_York", "Asia/Tokyo"):
        monkeypatch.setenv("TZ", machine)
        time.tzset()
        for zone, expected in (("UTC", "2024-01-05T20:00"), ("Asia/Shanghai", "2024-01-06T04:00")):
            said = rules(zone=zone)
            for path in (csv, parquet):
                assert read(path, rules=said).columns["x"].tolist() == [day(expected)] * 2
            table = make_table(["a", "b"], {"x": aware}, normaliser="text", rules=said)
            assert table.columns["x"].tolist() == [day(expected)] * 2
    monkeypatch.undo()
    time.tzset()
    with pytest.raises(ConfigError, match="zone 'Asia/Nowhere' is unknown"):
        read(csv, rules=rules(zone="Asia/Nowhere"))


def test_the_date_column_is_read_by_the_same_forms(tmp_path):
    path = write(tmp_path / "x.csv", {"day": ["31.12.2023", "5.1.2024"], "n": ["1", "2"], "w": ["1,5", "2,25"]})
    table = read(path, date_column="day", weight_column="w")
    assert table.dates.astype(str).tolist() == ["2023-12-31", "2024-01-05"]
    assert table.weight.tolist() == [1.5, 2.25]
    path = write(tmp_path / "x.csv", {"day": ["20231231", "20240105"], "n": ["1", "2"]})
    assert read(path, date_column="day").dates.astype(str).tolist() == ["2023-12-31", "2024-01-05"]
    path = write(tmp_path / "x.csv", {"day": ["3/4/2024", "5/6/2024"], "n": ["1", "2"]})
    with pytest.raises(ColumnError, match="two ways"):
        read(path, date_column="day")


def test_a_model_reads_dates_and_text_as_it_was_trained(tmp_path):
    path = write(tmp_path / "x.csv", {"day": ["2024-01-05", "2024-01-06"], "code": ["1", "2"], "none": ["", ""]})
    table = read(path, kinds={"day": "number", "code": "category", "none": "number"})
    assert table.kinds == {"day": "number", "code": "category", "none": "number"}
    write(path, {"day": ["2024-01-05", "soon"], "code": ["1", "2"]})
    with pytest.raises(ColumnError, match="mixed type: 1 of 2"):
        read(path, kinds={"day": "number", "code": "category"})


# --- ids -------------------------------------------------------------------------------------------------------------

LONG = "911100001000013428"


def test_what_a_spreadsheet_does_to_ids_is_named():
    for normaliser in ("text", "uscc"):
        for spoilt, match in (
            ("9.111E+17", "in scientific notation, as a spreadsheet"),
            ("911100001000013000", "rounded to 15 digits"),
        ):
            ids = normalise_ids([spoilt] * 99, normaliser)
            with pytest.raises(IdError, match=match) as caught:
                check_ids(ids, normaliser)
            assert "duplicate" not in str(caught.value)
            assert spoilt not in str(caught.value)
    with pytest.raises(IdError, match=r"2 ending in \.0"):
        check_ids(normalise_ids(["12.0", "13.0"], "text"), "text")
    with pytest.raises(IdError, match="decimal numbers"):
        normalise_ids(np.array([1.0, None], dtype=object), "text")
    check_ids(normalise_ids([LONG, "911100001000013000", "911100001000013111", "911100001000013112"], "text"), "text")


def test_ids_have_one_spelling():
    spelled = ["A1", "\u200bA1", "Ａ１", "A1\ufeff", "\u3000A1 ", '="A1"', "'A1", "A\u200d1", "A1\u00a0"]
    assert set(normalise_ids(spelled, "text").tolist()) == {"A1"}
    assert normalise_ids(["企业 1", "é"], "text").tolist() == ["企业 1", "é"]


def test_lost_leading_zeros_are_a_warning():
    ids = normalise_ids(["001234", "991234", "881234"], "text")
    assert id_warnings(ids, "text") == ()
    (warning,) = id_warnings(normalise_ids(["1234", "991234", "881234"], "text"), "text")
    assert "4 to 6 digits: if they had leading zeros" in warning


@pytest.mark.parametrize("cast", ["DOUBLE", "DECIMAL(10,2)"])
def test_decimal_ids_of_parquet_are_refused(tmp_path, cast):
    path = tmp_path / "x.parquet"
    duckdb.execute(f"COPY (SELECT i::{cast} AS id, i AS x FROM range(3) t(i)) TO '{path}' (FORMAT parquet)")  # noqa: S608
    with pytest.raises(IdError, match="decimal numbers, so digits may be lost"):
        read(path)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tax[1].csv", "a*b?.csv", "it's {x}.csv", "税务[二].csv"])
def test_names_of_files_are_literal(tmp_path, name):
    for other in ("tax1.csv", "aXbY.csv"):
        write(tmp_path / other, {"x": [1, 2]})
    assert read(write(tmp_path / name, {"x": [3, 4]})).columns["x"].tolist() == [3, 4]
    parquet = tmp_path / name.replace("csv", "parquet")
    duckdb.execute("COPY (SELECT 'f' || i AS id, i AS x FROM range(2) t(i)) TO ? (FORMAT parquet)", [str(parquet)])
    (tmp_path / "tax1.parquet").write_bytes(b"PAR1 another")
    assert read(parquet).columns["x"].tolist() == [0, 1]


def test_folders_named_key_value_add_no_column(tmp_path):
    folder = tmp_path / "year=2024"
    folder.mkdir()
    assert list(read(write(folder / "x.csv", {"x": [1, 2]})).columns) == ["x"]
    duckdb.execute(f"COPY (SELECT 'f' || i AS id, i AS x FROM range(2) t(i)) TO '{folder}/x.parquet' (FORMAT parquet)")  # noqa: S608
    assert list(read(folder / "x.parquet").columns) == ["x"]


@pytest.mark.parametrize(
    "content",
    [
        b"id,x\rf0,1\rf1,2\r",
        b"id,x\r\nf0,1\nf1,2\r\n",
        b"id,x\nf0,1\r\nf1,2",
        b"\xef\xbb\xbf\n\nid,x\nf0,1\nf1,2\n",
        b"sep=;\nid;x\nf0;1\nf1;2\n",
        b'\xef\xbb\xbf"id"\t"x"\n"f0"\t"1"\n"f1"\t"2"\n',
        "id,x\nf0,1\nf1,2\n".encode("utf-16"),
        "id,x\r\nf0,1\r\nf1,2\r\n".encode("utf-32"),
        gzip.compress("id,x\nf0,1\r\nf1,2\n".encode("utf-16"), mtime=0),
    ],
)
@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_line_ends_marks_and_compression_are_found_by_content(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    table = read(tmp_path / name)
    assert table.ids.tolist() == ["f0", "f1"]
    assert table.columns["x"].tolist() == [1, 2]


def test_cells_with_separators_and_line_ends(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'id,"a,\nb;c;d",e\r\nf0,"1\r\n2, 3","x ""y"""\r\nf1,"4\n5",z\r\n')
    table = read(path)
    assert list(table.columns) == ["a, b;c;d", "e"]
    assert table.columns["a, b;c;d"].tolist() == ["1\n2, 3", "4\n5"]
    assert table.columns["e"].tolist() == ['x "y"', "z"]


def test_declared_encoding(tmp_path):
    path = tmp_path / "x.csv"
    for encoding in ("gb18030", "gbk", "big5", "shift_jis", "cp1251", "latin-1"):
        word = {"cp1251": "оборот", "latin-1": "Umsätze", "big5": "營業額"}.get(encoding, "日本")
        path.write_bytes(f"id,{word}\nf0,{word}\nf1,b\n".encode(encoding))
        with pytest.raises(DataError, match=r"not UTF-8.*encoding: gb18030"):
            read(path)
        assert read(path, rules=rules(encoding=encoding)).columns[word].tolist() == [word, "b"]
    path.write_bytes(b"id,x\nf0,\x81\x30\n")
    with pytest.raises(DataError, match="is not gb18030"):
        read(path, rules=rules(encoding="gb18030"))
    path.write_bytes("id,x\nf0,1\n".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"zero bytes.*utf-16-le"):
        read(path)
    assert read(path, rules=rules(encoding="utf-16-le")).columns["x"].tolist() == [1]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"id,X,x\nf0,1,2\n", "names differ in case alone, 'X' and 'x'"),
        (b"id,x\nf0,1\x002\n", "zero bytes"),
        (b"id,x\nf0," + b"y" * 3_000_000 + b"\n", r"line 2 is longer than 2 MB"),
        (gzip.compress(b"id,x\nf0,1\n" * 1000, mtime=0)[:-30], "damaged gzip"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"0" * 90, "old kind or an encrypted one"),
        (b"  <html><table>", "a web page"),
        (b"SQLite format 3\0", "a SQLite database"),
        (b"%PDF-1.7", "a PDF"),
        (b"PK\x03\x04nothing", "damaged workbook"),
        (b'id,x\nf0,"1\nf1,2\n', "line 2"),
        (b'id,x\nf0,"1"2\nf1,3\n', "line 2"),
    ],
)
def test_files_that_are_no_table_are_refused_in_one_sentence(tmp_path, content, match):
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=match) as caught:
        read(path)
    assert "Exception" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parquet_by_its_content(tmp_path):
    sql = "SELECT 'f' || i AS id, i AS x, NULL AS gone, '' || i AS code, i::VARCHAR || ',5' AS t FROM range(3) t(i)"
    duckdb.execute(f"COPY ({sql}) TO '{tmp_path}/x.parquet' (FORMAT parquet)")
    (tmp_path / "x.parquet").rename(tmp_path / "x.csv")
    table = read(tmp_path / "x.csv")
    assert table.kinds == {"x": "number", "gone": "number", "code": "category", "t": "number"}
    assert table.columns["t"].tolist() == [0.5, 1.5, 2.5]
    assert "column 'gone' is missing in every row and will be dropped" in table.warnings
    write(tmp_path / "x.parquet", {"x": [1]})
    with pytest.raises(DataError, match="is no Parquet"):
        read(tmp_path / "x.parquet")
