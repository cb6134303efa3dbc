"""What stands at the path, what a disk and a signal do, and files that were made to harm."""

import errno
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus


def model() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 8))
    prunus.prune_(made, prunus.Unstructured(0.7))
    made[0] = prunus.SparseLinear.from_linear(made[0])
    return made


def fresh() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 8))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def changed(path: Path, change) -> None:
    """change(about) on the JSON of a file, its checksum repaired."""
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    about = json.loads(header["__metadata__"]["prunus"])
    change(about)
    text = json.dumps(about)
    header["__metadata__"] = {"prunus": text, "prunus_crc32": f"{zlib.crc32(text.encode()):08x}"}
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + size :])


SAVE = """
import sys, prunus, torch
prunus.save(torch.nn.Sequential(torch.nn.Linear(3, 4)), sys.argv[1])
"""


def test_saves_of_one_model_are_equal_bytes(path):
    """The library's writer orders metadata by a hash that is another in every call."""
    found = set()
    for _ in range(8):
        prunus.save(model(), path)
        found.add(path.read_bytes())
    assert len(found) == 1
    prunus.load(fresh(), path)


def test_only_regular_files_are_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    for place in (pipe, tmp_path / "folder", link, Path("/dev/full")):
        kind = place.stat().st_mode
        with pytest.raises(FileExistsError, match="expected a regular file or nothing"):
            prunus.save(model(), place)
        assert place.stat().st_mode == kind
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "link", "pipe"]


SLOW = (
    """
import time, prunus.checkpoint.file as file
write = file.write_tensors
def slow(*arguments):
    write(*arguments)
    print("written", flush=True)
    time.sleep(60)
file.write_tensors = slow
"""
    + SAVE
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_save_leaves_nothing(path, number):
    process = subprocess.Popen([sys.executable, "-c", SLOW, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(number)
    process.wait(60)
    assert list(path.parent.iterdir()) == []


def test_a_full_disk_is_an_oserror(path):
    """A limit on the size of a file stands for it: the library had an exception of its own."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            prunus.save(model(), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.errno == errno.EFBIG
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda about: about["entries"].update({"1.bias": "dense"}), "expected an object"),
        (lambda about: about["entries"]["1.bias"].update(shape=[2**62, 4]), "expected a list of sizes"),
        (lambda about: about["entries"]["1.bias"].update(shape=[0, 2**62]), "expected a list of sizes"),
        (lambda about: about["entries"]["0.weight"].update(shape=[2**20, 2**10]), "no more elements"),
        (lambda about: about["entries"]["0.weight"].update(shape=[2**30] * 30), "no more elements"),
    ],
)
def test_malformed_headers_are_format_errors(path, change, sentence):
    prunus.save(model(), path)
    changed(path, change)
    with pytest.raises(prunus.FormatError, match=sentence):
        prunus.load(fresh(), path)


def test_a_small_file_cannot_fill_the_memory(path):
    """One bit of a mask becomes a byte, then a number: 8 MiB of zero bits were 2 GiB."""
    from safetensors.torch import save_file

    bits = torch.zeros(2**23, dtype=torch.uint8)
    stored = {"0.weight:mask": bits, "0.weight:values": torch.zeros(0)}
    about = {
        "version": 1,
        "entries": {"0.weight": {"kind": "masked", "shape": [2**13, 2**13]}},
        "ties": {},
        "sparse": {},
        "geometry": {},
        "crc32": {key: zlib.crc32(value.numpy().data) for key, value in stored.items()},
    }
    text = json.dumps(about)
    save_file(stored, path, {"prunus": text, "prunus_crc32": f"{zlib.crc32(text.encode()):08x}"})
    begin = time.perf_counter()
    with pytest.raises(prunus.FormatError, match="no more elements than the model has"):
        prunus.load(fresh(), path)
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize(
    ("value", "source", "stored", "fits"),
    [
        (1e6, torch.float32, "float16", False),
        (65519.0, torch.float32, "float16", True),
        (65520.0, torch.float32, "float16", False),
        (-7e4, torch.bfloat16, "float16", False),
        (3.4e38, torch.float32, "bfloat16", False),
        (1e300, torch.float64, "float32", False),
        (1e300, torch.float64, "int8", False),
        (float("inf"), torch.float32, "float16", True),
        (1e6, torch.float32, "int8", True),
    ],
)
def test_a_number_that_the_stored_type_cannot_hold_is_refused(value, source, stored, fits):
    w = torch.ones(4, 9, dtype=source)
    w[2, 5] = value
    if fits:
        assert prunus.pack(w, dtype=stored).to_dense()[2, 5] == pytest.approx(value, rel=1e-2)
        return
    with pytest.raises(ValueError, match=r"w: expected values that .* can hold, got"):
        prunus.pack(w, dtype=stored)
    mask = torch.ones(4, 9, dtype=torch.bool)
    mask[2, 5] = False
    prunus.pack(w, mask, dtype=stored)  # one that is not stored may be anything


def test_the_gradient_follows_the_bytes():
    """A write through `.data` does not count as a version of the tensor."""
    first, second = torch.randn(6, 10), torch.randn(6, 10)
    layer = prunus.SparseLinear.from_linear(nn.Linear(10, 6))
    layer.packed = prunus.pack(first).tensor.clone()
    for w in (first, second):
        layer.packed.data.copy_(prunus.pack(w).tensor)
        x = torch.ones(1, 10, requires_grad=True)
        layer(x).sum().backward()
        torch.testing.assert_close(x.grad, w.sum(0, keepdim=True))
