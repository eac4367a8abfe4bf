"""Bring the console's catalogues up to date: ``python tools/messages.py``, as `make messages` does (needs babel).

Reads every text of templates and code into locale/zh_CN/LC_MESSAGES/console.po, keeps the translations that are there,
and compiles it to .mo, which is what runs. Exit code 1 where a text has no translation.
"""

from __future__ import annotations

import datetime as dt
import io
import sys
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir, extract_from_file
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

_NEVER = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (ROOT / "veilscore" / "console", ROOT / "party_bank" / "console", ROOT / "party_bank" / "portal")
METHODS = [("**.py", "python"), ("**/templates/**.html", "jinja2")]
OPTIONS = {"**/templates/**.html": {"newstyle_gettext": "true", "silent": "false", "trimmed": "true"}}
KEYWORDS = {"_": None, "noted": None}
HEALTH = ROOT / "veilscore" / "node" / "health.py"  # whose findings the console shows in its own words


def texts_of(folder: Path) -> Catalog:
    """Return every text of a folder's templates and code."""
    found = Catalog(project="Veilscore", charset="utf-8")
    for name, _line, message, _comments, context in extract_from_dir(
        folder, METHODS, OPTIONS, KEYWORDS, comment_tags=()
    ):
        found.add(message, None, [(name, 1)], context=context)
    if folder == FOLDERS[0]:
        for _line, message, _comments, _context in extract_from_file("python", HEALTH, {"HealthFinding": None}):
            found.add(message, None, [(HEALTH.name, 1)])
    return found


def updated(folder: Path) -> tuple[bytes, bytes, list[str]]:
    """Return .po and .mo of a folder as they have to be, and the texts without a translation."""
    path = place(folder)
    catalog = Catalog(locale="zh_Hans_CN", project="Veilscore", charset="utf-8")
    if path.exists():
        with path.open("rb") as file:
            catalog = read_po(file, locale="zh_Hans_CN")
    catalog.update(texts_of(folder), no_fuzzy_matching=True)
    catalog.obsolete.clear()
    catalog.creation_date = catalog.revision_date = _NEVER  # so that the same texts make the same file
    text, compiled = io.BytesIO(), io.BytesIO()
    write_po(text, catalog, sort_output=True, no_location=True, omit_header=True, width=0)
    write_mo(compiled, catalog)
    header = b'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=utf-8\\n"\n\n'
    return header + text.getvalue(), compiled.getvalue(), [str(one.id) for one in catalog if one.id and not one.string]


def place(folder: Path) -> Path:
    """Return a folder's catalogue."""
    return folder / "locale" / "zh_CN" / "LC_MESSAGES" / "console.po"


def main() -> int:
    """Write both files of each folder."""
    missing = []
    for folder in FOLDERS:
        text, compiled, without = updated(folder)
        path = place(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
        path.with_suffix(".mo").write_bytes(compiled)
        missing += without
    for text in missing:
        print(f"no translation: {text}")
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
