"""Shared folders of finished jobs: made once, made again when interrupted or changed, and a change is found."""

from __future__ import annotations

import os
import time

import finished_jobs
import pytest
from finished_jobs import KEPT_S, changed, finished, keep_in


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(finished_jobs, "_kept", [])
    monkeypatch.setattr(finished_jobs, "_used", {})
    keep_in(tmp_path)
    return tmp_path


made = []


def make(folder, text="a"):
    made.append(text)
    (folder / "file").write_text(text)
    if text == "interrupted" and made.count(text) == 1:
        raise KeyboardInterrupt


def test_a_folder_is_made_once_for_the_same_arguments(kept):
    made.clear()
    folder = finished(make)
    assert finished(make) == folder
    assert (folder / "file").read_text() == "a"
    assert finished(make, "b") != folder
    assert made == ["a", "b"]
    assert changed() == []


def test_what_was_interrupted_or_changed_is_made_again(kept, monkeypatch):
    made.clear()
    with pytest.raises(KeyboardInterrupt):
        finished(make, "interrupted")
    folder = finished(make, "interrupted")
    assert made == ["interrupted"] * 2
    (folder / "more").write_text("of a test that takes no copy")
    assert changed() == [folder]
    monkeypatch.setattr(finished_jobs, "_used", {})  # the next session
    assert finished(make, "interrupted") == folder
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert changed() == []


def test_what_nobody_asked_for_lately_is_removed(kept):
    old, new = (finished(make, text).parent for text in ("old", "new"))
    os.utime(old, (time.time() - KEPT_S - 60,) * 2)
    keep_in(kept)
    assert list(kept.iterdir()) == [new]


def test_other_code_is_another_folder(kept, monkeypatch):
    folder = finished(make)
    monkeypatch.setattr(finished_jobs, "_code_of", lambda _: "other")
    assert finished(make) != folder
