"""The tool that tells whether two builds give the same bits."""

import json

import pytest

from bench import hashes
from prunus import _core


@pytest.fixture(autouse=True)
def few_cases(monkeypatch):
    for name, value in {
        "TOKENS": (1, 9),
        "SPARSITIES": (0.5,),
        "KINDS": {"float32": hashes.KINDS["float32"]},
        "SHAPE": (16, 24),
        "LONG": (8, 40),
    }.items():
        monkeypatch.setattr(hashes, name, value)


def test_a_build_agrees_with_itself_and_a_changed_bit_is_seen(tmp_path, capsys, set_threads):
    set_threads(1)
    isa = _core.available_isas()[-1]
    files = [tmp_path / "before.json", tmp_path / "after.json"]
    for path in files:
        assert hashes.main([str(path), "--isas", isa]) == 0
    cases = json.loads(files[0].read_text())
    assert {case.split()[-1] for case in cases} >= {
        "packed",
        "dense",
        "gated",
        "residual",
        "m=9",
        "nonfinite",
    }
    assert hashes.main([str(path) for path in files]) == 0
    name = f"{isa} 16x24 nm 0.5 int8 float32 m=9 gated"
    cases[name] = "another"
    del cases[f"{isa} shared 0.5 float32 m=1"]
    files[1].write_text(json.dumps(cases))
    assert hashes.main([str(path) for path in files]) == 1
    text = capsys.readouterr().out
    assert "1 of" in text
    assert name in text
    assert "shared 0.5 float32 m=1" in text


def test_one_bit_makes_another_hash_and_kinds_of_nan_do_not():
    import numpy as np

    a = np.array([[1.0, np.nan]], np.float32)
    b = a.copy()
    b.view(np.uint32)[0, 1] ^= 1  # another NaN
    assert hashes.digest(a) == hashes.digest(b)
    b.view(np.uint32)[0, 0] ^= 1
    assert hashes.digest(a) != hashes.digest(b)
