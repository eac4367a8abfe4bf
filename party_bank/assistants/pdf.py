"""A credit report as a PDF, by typst: an extra, since its compiler is a large binary."""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib.resources import as_file, files
from pathlib import Path

from party_bank.assistants.credit_report import CreditReport
from party_bank.assistants.spoken import speak
from party_bank.assistants.word import content_of
from veilscore.errors import ConfigError
from veilscore.files.store import write_atomically
from veilscore.reports.facts import Locale

_LATIN = ("Libertinus Serif",)  # typst brings it
_CHINESE = (
    "Noto Serif CJK SC", "Noto Sans CJK SC", "Source Han Serif SC", "Source Han Sans SC", "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei", "Songti SC", "PingFang SC", "Microsoft YaHei", "SimSun",
)  # fmt: skip


def write_pdf(report: CreditReport, locale: Locale, path: Path) -> Path:
    """Write the report as a PDF; ConfigError where typst is missing, or a font with the signs of the language."""
    try:
        import typst  # noqa: PLC0415 - an extra of the installation
    except ImportError:
        raise ConfigError("a PDF needs typst: run `pip install 'veilscore[pdf]'`") from None
    content = content_of(speak(report, locale))
    chinese = chinese_fonts()
    if not chinese and _has_han(json.dumps(content, ensure_ascii=False)):
        raise ConfigError(
            "no font on this machine has Chinese characters, so a PDF would lack them: install one (Debian: "
            "fonts-noto-cjk), or write a page or a Word document"
        )
    with (
        tempfile.TemporaryDirectory(prefix="veilscore-report-") as folder,
        as_file(files("party_bank.assistants") / "templates" / "report.typ") as template,
    ):
        shutil.copy(template, folder)
        whole = json.dumps({**content, "fonts": [*_LATIN, *chinese]}, ensure_ascii=False)
        (Path(folder) / "report.json").write_text(whole, encoding="utf-8")
        made: bytes = typst.compile(str(Path(folder) / "report.typ"), root=folder)
    write_atomically(path, lambda file: file.write(made))
    return path


def chinese_fonts() -> list[str]:
    """Return the fonts with Chinese characters that typst finds on this machine."""
    import typst  # noqa: PLC0415 - an extra of the installation

    families = set(typst.Fonts().families())
    return [name for name in _CHINESE if name in families]


def _has_han(text: str) -> bool:
    return any("\u3400" <= sign <= "\u9fff" for sign in text)
