"""Write the workbooks of test_excel.py with two other programs' libraries: `pip install openpyxl xlsxwriter`."""

import datetime as dt
from pathlib import Path

import openpyxl
import xlsxwriter

HERE = Path(__file__).parent
HEADER = ("uscc", "turnover", "share", "opened", "seen", "sector", "code", "flag", "big")
SEEN = dt.datetime.fromisoformat("2024-01-05T13:30")  # Excel has no time zones
ROWS = (
    (
        "A1",
        1627.51,
        0.0163,
        dt.date(2024, 1, 5),
        dt.datetime.fromisoformat("2024-01-05T13:30"),
        "餐饮",
        "0111",
        True,
        9.111e17,
    ),
    ("B2", -3, 1, dt.date(1999, 12, 31), dt.datetime.fromisoformat("1999-12-31"), "=x\n<&>", "007", False, 0.1),
    ("C3", None, 0, None, None, None, "010", None, 5),
)


def with_openpyxl() -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "firms"
    sheet.append(HEADER)
    for row in ROWS:
        sheet.append([None if isinstance(cell, str) and cell.startswith("=") else cell for cell in row])
    sheet["F3"].value, sheet["F3"].data_type = "=x\n<&>", "s"
    for row in sheet["C2:C4"]:
        row[0].number_format = "0.00%"
    for row in sheet["B2:B4"]:
        row[0].number_format = "#,##0.00_);[Red](#,##0.00)"
    hidden = book.create_sheet("lists")
    hidden["A1"] = "x"
    hidden.sheet_state = "hidden"
    book.create_sheet("empty")
    book.save(HERE / "openpyxl.xlsx")


def with_xlsxwriter() -> None:
    for name, from_1904 in (("xlsxwriter.xlsx", False), ("from_1904.xlsx", True)):
        book = xlsxwriter.Workbook(HERE / name, {"date_1904": from_1904})
        sheet = book.add_worksheet("firms")
        day = book.add_format({"num_format": 'd mmm yyyy "day"'})
        clock = book.add_format({"num_format": 22})
        sheet.write_row(2, 1, HEADER)
        for i, row in enumerate(ROWS, start=3):
            for j, cell in enumerate(row, start=1):
                if isinstance(cell, dt.date):
                    sheet.write_datetime(i, j, cell, clock if j == 5 else day)
                elif isinstance(cell, str):
                    sheet.write_string(i, j, cell)
                elif cell is not None:
                    sheet.write(i, j, cell)
        book.close()
    book = xlsxwriter.Workbook(HERE / "refused.xlsx")
    for name in ("merged", "formula", "outside", "other"):
        sheet = book.add_worksheet(name)
        sheet.write_row(0, 0, ("uscc", "x"))
        sheet.write_row(1, 0, ("A1", 1))
    book.get_worksheet_by_name("merged").merge_range("A3:A4", "B2")
    book.get_worksheet_by_name("formula").write_formula("B3", "=B2+1", value=2)
    book.get_worksheet_by_name("outside").write("D2", 5)
    book.close()
    formula = openpyxl.Workbook()
    formula.active.append(("uscc", "x"))
    formula.active.append(("A1", "=1+1"))
    formula.save(HERE / "no_value.xlsx")


with_openpyxl()
with_xlsxwriter()
