"""Reports: what they print, what they export, and that files are replaced in one step."""

import json
import os
import stat

import numpy as np
import pytest

from prunus.report import Column, Report


def test_prints_every_column_and_the_summary():
    rows = [
        {"name": "fc[1]", "shape": (3, 4), "ms": 1.2345, "ok": True, "hidden": 7},
        {"name": "b", "ms": float("nan")},
    ]
    report = Report(
        rows,
        {"layers": 2},
        title="Two [bold]layers",
        columns=["name", "shape", Column("ms", "time", ".2f", " ms"), "ok"],
    )
    text = str(report)
    lines = text.splitlines()
    assert "Two [bold]layers" in lines[0]
    assert "time" in text
    assert "1.23 ms" in text
    assert "3x4" in text
    assert "fc[1]" in text
    assert "yes" in text
    assert "hidden" not in text
    assert lines[-1] == "layers 2"
    assert "\x1b" not in text


def test_json_has_plain_finite_values(tmp_path):
    report = Report(
        [{"a": np.float32(0.5), "b": (np.int64(1), 2), "c": float("inf")}],
        {"n": {"x": float("nan")}},
        title="t",
    )
    text = report.to_json(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == json.loads(text)
    assert json.loads(text) == {
        "title": "t",
        "summary": {"n": {"x": None}},
        "rows": [{"a": 0.5, "b": [1, 2], "c": None}],
    }


def test_write_failure_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    Report([{"a": 1}]).to_json(path)
    before = path.read_bytes()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        Report([{"a": 2}]).to_json(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["r.json"]


def test_written_files_get_ordinary_permissions(tmp_path):
    path = tmp_path / "r.json"
    old = os.umask(0o022)
    try:
        Report([]).to_json(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    os.chmod(path, 0o600)
    Report([]).to_json(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_long_report_is_never_cut():
    name = "encoder." * 30
    assert name in str(Report([{"name": name}], columns=["name"]))
