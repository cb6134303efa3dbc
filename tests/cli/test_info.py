"""prunus info, and the command line's own behaviour."""

import json
import os
import subprocess
import sys

import pytest

import prunus
from prunus import _core
from prunus.cli import main
from prunus.cli.info import gather, openmp_runtimes


def test_json_and_table_say_the_same(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == gather()
    assert facts["prunus"] == prunus.__version__
    assert facts["isa_active"] == _core.active_isa()
    assert facts["isa_active"] in facts["isa_detected"]
    assert facts["threads"] >= 1
    assert facts["thread_pool"] == "torch"
    assert facts["kernels"] == _core.kernels()
    assert facts["torch"].startswith("2.")
    assert main(["info"]) == 0
    words = capsys.readouterr().out.split()
    for value in (facts["prunus"], facts["isa_active"], facts["torch"], facts["python"], "col8", "bitmap"):
        assert value in words or f"{value}," in words


def test_a_forced_isa_is_shown_and_an_unknown_one_refused(monkeypatch, capsys):
    monkeypatch.setenv("PRUNUS_ISA", "scalar")
    _core.set_isa("auto")  # forget what was chosen before
    try:
        assert main(["info", "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["isa_active"] == facts["isa_forced"] == "scalar"
        monkeypatch.setenv("PRUNUS_ISA", "mmx")
        _core.set_isa("auto")
        assert main(["info"]) == 1
        error = capsys.readouterr().err
        assert error.startswith("prunus: PRUNUS_ISA: expected one of scalar")
        assert "got 'mmx'" in error
    finally:
        monkeypatch.delenv("PRUNUS_ISA")
        _core.set_isa("auto")


def test_openmp_runtimes_of_a_process():
    maps = """\
7f01-7f02 r-xp 00000000 08:01 1    /usr/lib/x86_64-linux-gnu/libgomp.so.1.0.0
7f02-7f03 r--p 00000000 08:01 1    /usr/lib/x86_64-linux-gnu/libgomp.so.1.0.0
7f03-7f04 r-xp 00000000 08:01 2    /site/numpy.libs/libgomp-a34b3233.so.1.0.0
7f04-7f05 r-xp 00000000 08:01 3    /opt/intel/libiomp5.so
7f05-7f06 r-xp 00000000 08:01 4    /usr/lib/llvm/libomp.so.5
7f06-7f07 r-xp 00000000 08:01 5    /usr/lib/libcompress.so.1
7f07-7f08 rw-p 00000000 00:00 0
"""
    assert openmp_runtimes(maps) == [
        "/opt/intel/libiomp5.so",
        "/site/numpy.libs/libgomp-a34b3233.so.1.0.0",
        "/usr/lib/llvm/libomp.so.5",
        "/usr/lib/x86_64-linux-gnu/libgomp.so.1.0.0",
    ]
    assert len(openmp_runtimes()) >= 1


@pytest.mark.parametrize("arguments", [[], ["grow"], ["info", "--color"]])
def test_wrong_arguments_end_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: prunus" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"prunus {prunus.__version__}\n"


def test_a_reader_that_goes_away_is_no_error(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w"))
    assert main(["info", "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "prunus", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"prunus {prunus.__version__}\n"), done.stderr
