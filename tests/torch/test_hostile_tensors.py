"""Bytes and memory that torch hands over unchecked: changed payloads, freed storage, too little memory.

Before, each of these crashed the process or (freed bias and residual) gave a wrong answer without a word.
"""

import copy
import io
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

import prunus
from prunus.packed import FLOAT_FORMATS

HEADER = 64


def layer_of(format: str, n: int = 48, k: int = 64) -> prunus.SparseLinear:
    linear = torch.nn.Linear(k, n)
    with torch.no_grad():
        blocks = torch.rand(n // 4, k // 4) < 0.5
        keep = torch.kron(blocks, torch.ones(4, 4)).bool()
        if format == "nm":
            keep = torch.tensor([True, False, False, True]).repeat(n, k // 4)
        linear.weight *= keep
    return prunus.SparseLinear.from_linear(linear, format=format).requires_grad_(False)


def damaged(packed: torch.Tensor, seed: int) -> torch.Tensor:
    bad = packed.clone()
    rng = np.random.default_rng(seed)
    at = torch.from_numpy(rng.integers(HEADER, bad.numel(), 8))
    bad[at] = torch.from_numpy(rng.choice([0, 1, 128, 254, 255], 8).astype(np.uint8))
    return bad


def answered(call: Callable[[], torch.Tensor]) -> bool:
    sentence = "packed."
    try:
        call()
    except ValueError as error:
        sentence = str(error)
    assert sentence.startswith("packed.")
    return sentence == "packed."


@pytest.mark.parametrize("format", FLOAT_FORMATS)
def test_changed_payloads_at_every_door(format: str) -> None:
    layer = layer_of(format)
    op, x = torch.ops.prunus.linear, torch.ones(3, 64)
    refused = 0
    for seed in range(60):
        bad = damaged(layer.packed, seed)
        refused += not answered(lambda bad=bad: op(x, bad, None, 48, 0))
        refused += not answered(lambda bad=bad: op(x[:1], bad, None, 48, 0))
        pickled = copy.deepcopy(layer)
        pickled.packed = bad
        file = io.BytesIO()
        torch.save(pickled, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
        refused += not answered(lambda again=again: again(x))
        with pytest.raises(prunus.FormatError) if not valid(bad) else nullcontext():
            copy.deepcopy(layer).load_state_dict({**layer.state_dict(), "packed": bad}, assign=True)
        mine = copy.deepcopy(layer)
        mine.packed.copy_(bad)
        refused += not answered(lambda mine=mine: mine(x))
    assert refused > 0


def valid(packed: torch.Tensor) -> bool:
    try:
        prunus.PackedWeight.from_buffer(packed.numpy())
    except prunus.FormatError:
        return False
    return True


def test_an_exported_program_with_changed_bytes(tmp_path: Path) -> None:
    layer = layer_of("col8")
    with torch.no_grad():
        program = torch.export.export(layer, (torch.ones(1, 64),))
    for seed in range(20):
        program.state_dict["packed"] = damaged(layer.packed, seed)
        with torch.no_grad():
            answered(lambda: program.module()(torch.ones(1, 64)))


def test_load_state_dict_checks_the_copy_it_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, given = layer_of("col8"), layer_of("col8").state_dict()
    packed = given["packed"]
    check = prunus.SparseLinear._check_packed

    def meanwhile(self: prunus.SparseLinear, seen: torch.Tensor, name: str) -> None:
        check(self, seen, name)
        packed[HEADER:].fill_(255)

    monkeypatch.setattr(prunus.SparseLinear, "_check_packed", meanwhile)
    layer.load_state_dict(given)
    assert valid(layer.packed)


@pytest.mark.parametrize("offset", [0, 3])
@pytest.mark.parametrize("freed", ["x", "packed", "bias", "residual"])
def test_freed_memory_is_refused(freed: str, offset: int) -> None:
    layer = layer_of("col8")
    numbers = {"x": torch.ones(70), "bias": torch.ones(60), "residual": torch.ones(60)}
    arguments = {"x": (1, 64), "bias": (48,), "residual": (1, 48)}
    tensors = {
        name: numbers[name][offset : offset + np.prod(shape)].reshape(shape)
        for name, shape in arguments.items()
    }
    tensors["packed"] = torch.cat([torch.zeros(offset, dtype=torch.uint8), layer.packed])[offset:]
    tensors[freed].untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=f"{freed}: expected memory of .* it was freed"):
        torch.ops.prunus.linear_add(
            tensors["x"], tensors["packed"], tensors["bias"], tensors["residual"], 48, 0
        )
    if freed == "packed":
        layer.packed = tensors["packed"]
        for use in (lambda: layer.packed_weight, lambda: layer(torch.ones(1, 64)), lambda: repr(layer)):
            with pytest.raises(ValueError, match="packed: expected memory"):
                use()
        with pytest.raises(ValueError, match="packed: expected memory"):
            layer_of("col8").load_state_dict(layer.state_dict())


OUT_OF_MEMORY = """
import resource, sys
import numpy as np, torch, prunus, prunus.ops.torch_ops
p = prunus.pack(np.ones((8, 400_000), np.float32) * (np.arange(400_000) % 4 == 0))
x = np.ones((64, 400_000), np.float32)
torch.set_num_threads(2)
tensor = torch.from_numpy(x)
torch.ops.prunus.linear(tensor[:1], p.tensor, None, 8, 0)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_AS, (used + (30 << 20), hard))
for call in (lambda: prunus.linear(x, p), lambda: torch.ops.prunus.linear(tensor, p.tensor, None, 8, 0)):
    try:
        call()
        sys.exit("expected a MemoryError")
    except MemoryError:
        pass
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
assert prunus.linear(x[:1], p).shape == (1, 8)
"""


def test_too_little_memory_is_a_memory_error() -> None:
    run = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr


def test_the_workspace_gives_memory_back() -> None:
    p = prunus.pack(np.ones((8, 400_000), np.float32) * (np.arange(400_000) % 4 == 0))
    x = torch.ones(64, 400_000)

    def used() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    prunus.linear(x[:1], p)
    before = used()
    prunus.linear(x, p)
    assert used() - before < 64 << 20  # its panels are 100 MB for each thread
