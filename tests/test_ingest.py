"""Reading data sets: types, refusals that say what to do, databases in chunks."""

import gzip

import duckdb
import numpy as np
import pytest
import sqlalchemy as sa
from conftest import shared_data
from reference import load_parties

from veilscore.data import ingest_database
from veilscore.data.ingest import read_table
from veilscore.data.simulate import firm_ids as draw_ids
from veilscore.data.table import make_table
from veilscore.errors import ColumnError, DataError, IdError, LabelError


def firm_ids(n):
    return draw_ids(np.random.default_rng(5), n)


@pytest.fixture
def write(tmp_path):
    """Write a CSV from a header and columns after the id; return its path."""

    def write_csv(header, *columns, name="bank.csv"):
        rows = zip(firm_ids(len(columns[0])), *columns, strict=True)
        path = tmp_path / name
        path.write_text(
            "\n".join([f"uscc,{header}", *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8"
        )
        return path

    return write_csv


def test_types_are_decided_over_the_whole_file(write):
    n = 30_000
    late = ["1"] * (n - 1) + ["2.5"]
    text = ["a", "b"] * (n // 2)
    day = ["2024-01-02"] * (n - 1) + [""]
    table = read_table(write("late,text,day,gap", late, text, day, ["NA", " "] * (n // 2)), "uscc")
    assert table.kinds == {"late": "number", "text": "category", "day": "number", "gap": "number"}
    assert table.columns["late"][-1] == 2.5
    assert table.columns["day"][0] == 19724
    assert np.isnan(table.columns["day"][-1])
    assert np.isnan(table.columns["gap"]).all()
    assert table.warnings == (
        "column 'day' has one value only and will be dropped unless its missing rows tell something",
        "column 'gap' is missing in every row and will be dropped",
    )


def test_mixed_column_is_refused_and_can_be_declared(write):
    path = write("turnover", ["1", "2", "n/a?", "4"])
    with pytest.raises(ColumnError, match=r"'turnover' is of mixed type: 3 of 4 .*'category'") as caught:
        read_table(path, "uscc")
    assert "n/a?" not in str(caught.value)
    assert read_table(path, "uscc", kinds={"turnover": "category"}).columns["turnover"].tolist() == [
        "1",
        "2",
        "n/a?",
        "4",
    ]
    with pytest.raises(ColumnError, match="mixed"):
        read_table(write("code", ["A1", "B", "C", "4"]), "uscc", kinds={"code": "number"})
    assert read_table(write("code", ["A1", "B", "C", "4"]), "uscc").kinds == {"code": "category"}


@pytest.mark.parametrize(
    ("content", "error", "match"),
    [
        ("", DataError, "is empty"),
        ("uscc,x\n", DataError, "no rows"),
        ("uscc,x,x\n1,2,3\n", ColumnError, "two columns named 'x'"),
        ("uscc,\n1,2\n", ColumnError, "without a name"),
        ("uscc,x\nA,1\nSECRET,1,2,3\n", DataError, "line 3 does not have the columns"),
        ("uscc,x\nA,1\nSECRET\n", DataError, "line 3 does not have the columns"),
        ('uscc,x\nA,"1\nSECRET,2\n', DataError, "line 2"),
        ("uscc,turn_over\nA,1\n", ColumnError, "did you mean 'turn_over'"),
    ],
)
def test_broken_files(tmp_path, content, error, match):
    path = tmp_path / "bank.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(error, match=match) as caught:
        read_table(path, "uscc", columns=["turnover"] if "turn_over" in content else None, normaliser="text")
    assert "SECRET" not in str(caught.value)


def test_missing_file_and_wrong_encoding(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_table(tmp_path / "none.csv", "uscc")
    for name, content in (("header.csv", "uscc,营业额\nA,1\n"), ("body.csv", "uscc,x\nA,营业额\n")):
        (tmp_path / name).write_bytes(content.encode("gb18030"))
        with pytest.raises(DataError, match="not UTF-8"):
            read_table(tmp_path / name, "uscc", normaliser="text")
    (tmp_path / "fake.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match="check that the file is whole"):
        read_table(tmp_path / "fake.parquet", "uscc")


@pytest.mark.parametrize(
    "content", ["\ufeffuscc;x\r\nA;1\r\nB;2\r\n", "uscc\tx\nA\t1\n\nB\t2\n", 'uscc,x\n"A",1\n"B",2']
)
def test_separators_marks_and_line_ends(tmp_path, content):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(content.encode()))
    table = read_table(path, "uscc", normaliser="text")
    assert table.ids.tolist() == ["A", "B"]
    assert table.columns["x"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("label", "match"),
    [
        (["0", "1", ""], r"missing in 1 rows \(row 3\)"),
        (["0", "1", "2"], r"not 0/1 in 1 rows \(row 3\)"),
        (["1", "1", "1"], "one value only"),
    ],
)
def test_bad_labels(write, label, match):
    with pytest.raises(LabelError, match=match):
        read_table(write("default,x", label, [1, 2, 3]), "uscc", "default")


def test_text_labels(write):
    with pytest.raises(ColumnError, match=r"'default' of bank\.csv is no number in 2 rows"):
        read_table(write("default,x", ["good", "bad"], [1, 2]), "uscc", "default")
    assert read_table(write("default,x", ["false", "true"], [1, 2]), "uscc", "default").label.tolist() == [0, 1]


def test_label_weight_dates_and_selection(write):
    path = write("default,w,day,a,b", [0, 1], [1.5, 2], ["2024-01-01", "2024-03-01"], [3, 4], [5, 6])
    table = read_table(path, "uscc", "default", weight_column="w", date_column="day", exclude=["b"])
    assert list(table.columns) == ["a"]
    assert table.label.tolist() == [0, 1]
    assert table.weight.tolist() == [1.5, 2]
    assert table.dates.astype(str).tolist() == ["2024-01-01", "2024-03-01"]
    assert table.take(np.array([1])).ids[0] == table.ids[1]
    assert "1.5" not in repr(table)
    with pytest.raises(ColumnError, match="no feature column left"):
        read_table(path, "uscc", "default", columns=["default"])
    with pytest.raises(ColumnError, match="two parts"):
        read_table(path, "uscc", "default", weight_column="default")
    with pytest.raises(ColumnError, match="not positive"):
        read_table(write("w,x", [1, 0], [1, 2]), "uscc", weight_column="w")
    with pytest.raises(ColumnError, match=r"unreadable in 1 rows \(row 2\)"):
        read_table(write("day,x", ["2024-01-01", "soon"], [1, 2]), "uscc", date_column="day")


def test_infinite_and_duplicate(write, tmp_path):
    with pytest.raises(ColumnError, match=r"'x' of bank.csv has 2 infinite values \(row 2, 3\)"):
        read_table(write("x", [1, "inf", "1e+999"]), "uscc")
    path = write("x", [1, 2])
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(IdError, match=r"1 duplicate \(row 3\)"):
        read_table(path, "uscc")


def test_names_and_values_with_quotes(tmp_path):
    path = tmp_path / "it's.csv"
    path.write_text('uscc,"a ""b"", c\'; --"\nA,1\nB,2\n', encoding="utf-8")
    assert read_table(path, "uscc", normaliser="text").columns['a "b", c\'; --'].tolist() == [1, 2]


def test_parquet_types(tmp_path):
    path = tmp_path / "bank.parquet"
    sql = """SELECT 'A' || i AS uscc, i::INT AS small, (9007199254740992 + i)::BIGINT AS big, i::DECIMAL(8,2) AS money,
        i % 2 = 0 AS flag, DATE '1970-01-11' AS day, '00' || i AS zip, NULL::DOUBLE AS nothing FROM range(1, 5) t(i)"""
    duckdb.execute(f"COPY ({sql}) TO '{path}' (FORMAT parquet)")
    table = read_table(path, "uscc", normaliser="text")
    assert table.kinds["zip"] == "category"
    assert [table.columns[name][0] for name in ("small", "money", "flag", "day")] == [1, 1, 0, 10]
    assert table.columns["big"].tolist() == [float(2**53 + i) for i in range(1, 5)]
    duckdb.execute(f"COPY (SELECT 'A' AS uscc, [1, 2] AS list) TO '{path}' (FORMAT parquet)")
    with pytest.raises(ColumnError, match="'list' is of type INTEGER"):
        read_table(path, "uscc", normaliser="text")


@pytest.fixture
def database(tmp_path):
    """A SQLite file with 25 firms in table `firms`."""
    url = f"sqlite:///{tmp_path}/firms.db"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE firms (uscc TEXT, bad INT, amount, form TEXT, day TEXT)"))
        rows = [
            {
                "u": firm,
                "b": i % 2,
                "a": None if i < 12 else i / 2,
                "f": None if i < 12 else "AB"[i % 2],
                "d": "2024-01-05",
            }
            for i, firm in enumerate(firm_ids(25).tolist())
        ]
        connection.execute(sa.text("INSERT INTO firms VALUES (:u, :b, :a, :f, :d)"), rows)
    yield url, engine
    engine.dispose()


def test_database_in_chunks(database, monkeypatch):
    monkeypatch.setattr(ingest_database, "CHUNK_ROWS", 5)
    url, _ = database
    table = read_table(url, "uscc", "bad", date_column="day", table="firms")
    assert table.n_rows == 25
    assert table.kinds == {"amount": "number", "form": "category"}
    assert np.isnan(table.columns["amount"][:12]).all()
    assert table.columns["amount"][12:].tolist() == [i / 2 for i in range(12, 25)]
    assert table.columns["form"][11:14].tolist() == [None, "A", "B"]
    assert table.dates[0] == np.datetime64("2024-01-05")
    same = read_table(url, "uscc", query="SELECT uscc, amount, form FROM firms")
    assert same.kinds == table.kinds


def test_database_refusals(database, monkeypatch):
    url, engine = database
    with pytest.raises(DataError, match="no such table: firm"):
        read_table(url, "uscc", table="firm")
    with pytest.raises(DataError, match="exactly one"):
        read_table(url, "uscc")
    with pytest.raises(DataError, match="no rows"):
        read_table(url, "uscc", query="SELECT * FROM firms WHERE 1 = 0")
    with pytest.raises(ColumnError, match="did you mean 'amount'"):
        read_table(url, "uscc", table="firms", columns=["amunt"])
    with pytest.raises(ColumnError, match="two columns named 'bad'"):
        read_table(url, "uscc", query="SELECT uscc, bad, bad FROM firms")
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE firms SET amount = 'SECRET' WHERE rowid = 25"))
    for size in (5, 1000):
        monkeypatch.setattr(ingest_database, "CHUNK_ROWS", size)
        with pytest.raises(ColumnError, match="'amount' is of mixed") as caught:
            read_table(url, "uscc", table="firms")
        assert "SECRET" not in str(caught.value)


def test_database_urls_hide_passwords():
    with pytest.raises(DataError) as caught:
        read_table("postgresql+psycopg://me:hush@localhost:1/x", "uscc", table="t")
    assert "hush" not in str(caught.value)
    with pytest.raises(DataError, match="cannot be understood"):
        read_table("nosuch://me:hush@x/y", "uscc", table="t")


def test_make_table_from_arrays():
    ids = firm_ids(3)
    columns = {
        "n": [1, 2, None],
        "t": np.array(["a", "", "b"]),
        "d": np.array(["2024-01-01", "NaT", "2024-01-02"], "M8[D]"),
    }
    table = make_table(ids, columns, label=[0, 1, 0])
    assert table.kinds == {"n": "number", "t": "category", "d": "number"}
    assert table.columns["t"].tolist() == ["a", None, "b"]
    assert table.columns["d"][2] == 19724
    assert make_table(ids, {"n": [1, 2.0, None]}, kinds={"n": "category"}).columns["n"].tolist() == ["1", "2", None]
    for bad, match in (
        ({"n": [1, "a", 2]}, "mixed"),
        ({"n": [b"", b"x", 1]}, "mixed"),
        ({"n": [[1], [2], [3]]}, "dimensions"),
    ):
        with pytest.raises(ColumnError, match=match):
            make_table(ids, bad)
    with pytest.raises(DataError, match="another number of rows"):
        make_table(ids, {"n": [1, 2]})
    with pytest.raises(DataError, match="no rows"):
        make_table([], {"n": []})
    many = make_table(firm_ids(1500), {"name": [f"firm {i}" for i in range(1500)]})
    assert "names or addresses" in many.warnings[0]


@pytest.mark.parametrize("name", ["kz_corporate", pytest.param("sba_loans", marks=pytest.mark.slow)])
def test_real_data_equal_the_reference(name):
    folder = shared_data(name)
    for party, expected in load_parties(folder).items():
        table = read_table(folder / f"{party}.csv", "uscc", "default" if party == "bank" else None)
        assert (table.ids == expected["ids"]).all()
        for column, values in expected["columns"].items():
            np.testing.assert_array_equal(table.columns[column], values)
        if party == "bank":
            np.testing.assert_array_equal(table.label, expected["label"])


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_many_rows_stay_in_the_order_of_the_file(tmp_path, ending):
    """Two threads read them; a step that reads other columns again must find the same rows at the same place."""
    n, path = 160_000, tmp_path / f"many.{ending}"
    levels = ", ".join(f"printf('level %d {'of many ' * 8}', (i + {j}) % 5) AS level{j}" for j in range(2))
    with duckdb.connect() as database:
        rows = f"SELECT printf('f%06d', i) AS id, i % 7 AS x, {levels} FROM range({n}) t(i)"  # noqa: S608 - no input
        database.execute(f"COPY ({rows}) TO '{path}'")
    table = read_table(path, "id", None, normaliser="text")
    assert table.ids.tolist() == [f"f{i:06d}" for i in range(n)]
    assert (table.columns["x"] == np.arange(n) % 7).all()
    assert [level[6] for level in table.columns["level0"].tolist()] == [str(i % 5) for i in range(n)]
