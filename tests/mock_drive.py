"""PySyft's own mock of Google Drive under examples/pysyft_drive.py: every command as a user types it, no network."""

from __future__ import annotations

import gzip
import importlib.util
import warnings
from typing import TYPE_CHECKING

from conftest import ROOT, require

if TYPE_CHECKING:
    import pytest

MODELLER, OWNER = "m@bank.example", "o@tax.example"  # as in docs/sandbox.md


def need_pysyft():
    """Skip where PySyft is not installed (a failure under CI); its import warns of what it still uses of pydantic."""
    require(importlib.util.find_spec("syft_rds"), "PySyft (pip install 'veilscore[syft]') is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import syft_rds.client  # noqa: F401


class MockDrive:
    """Two people on one drive, each with a SyftBox in its own home folder below `folder`."""

    def __init__(self, folder, monkeypatch: pytest.MonkeyPatch, *, encrypted: bool):
        from syft.sync.connections.drive import gdrive_transport, mock_drive_service

        self.store = mock_drive_service.MockDriveBackingStore()
        self._encrypted = encrypted
        self._token = folder / "token.json"  # of no use: there is no network
        self._token.write_text("{}")
        monkeypatch.setenv("HOME", str(folder))  # PySyft keeps ~/SyftBox_EMAIL
        monkeypatch.setenv("PRE_SYNC", "false")
        monkeypatch.setattr(
            gdrive_transport.GDriveConnection,
            "from_token_path",
            lambda email, _token, **_: gdrive_transport.GDriveConnection.from_service(
                email, mock_drive_service.MockDriveService(self.store, email)
            ),
        )
        spec = importlib.util.spec_from_file_location("pysyft_drive", ROOT / "examples" / "pysyft_drive.py")
        self._example = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._example)

    def run(self, *words):
        """One command of examples/pysyft_drive.py."""
        self._example.main([*words, *["--plain"] * (not self._encrypted)])

    def client(self, *, owner):
        """PySyft's own client of one person."""
        email = OWNER if owner else MODELLER
        return self._example.connect(email, self._token, owner=owner, encrypted=self._encrypted)

    def contents(self):
        """What lies on the drive, unpacked where it is not encrypted."""
        for file in list(self.store.files.values()):
            yield gzip.decompress(file.content) if file.content[:2] == b"\x1f\x8b" else file.content
