"""A load that fails, wherever it does, leaves the model as it was."""

import copy
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.checkpoint import verb
from prunus.checkpoint.before import Before


def model(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(24, 16), nn.LayerNorm(16), nn.Linear(16, 8))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    dense = model(1)
    prunus.prune_(dense, prunus.Unstructured(0.7))
    dense[0] = prunus.SparseLinear.from_linear(dense[0])
    prunus.save(dense, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def same(a: nn.Module, b: nn.Module) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    kinds = [type(m) for m in a.modules()] == [type(m) for m in b.modules()]
    return kinds and mine.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in mine.items())


def test_an_error_while_fusing_undoes_the_load(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("while fusing")

    fresh = model(2)
    before, parameters = copy.deepcopy(fresh), dict(fresh.named_parameters())
    monkeypatch.setattr(verb, "fuse_", fails)
    with pytest.raises(RuntimeError, match="while fusing"):
        prunus.load(fresh, saved)
    assert same(fresh, before)
    assert all(fresh.get_parameter(name) is value for name, value in parameters.items())


@pytest.mark.parametrize("error", [RuntimeError("in a step"), KeyboardInterrupt()])
@pytest.mark.parametrize("after", range(6))
def test_an_error_in_any_step_undoes_those_before(
    saved: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, after: int
) -> None:
    left = [after]
    plain = {name: getattr(Before, name) for name in ("copy", "replace")}

    def counted(name: str) -> Callable[[Before, Tensor, Tensor], None]:
        def change(self: Before, tensor: Tensor, value: Tensor) -> None:
            plain[name](self, tensor, value)
            left[0] -= 1
            if left[0] < 0:
                if isinstance(error, KeyboardInterrupt):
                    os.kill(os.getpid(), signal.SIGINT)
                raise error

        return change

    for name in plain:
        monkeypatch.setattr(Before, name, counted(name))
    fresh = model(2)
    fresh[2].half()  # another dtype than in the file: its memory is replaced, not overwritten
    before = copy.deepcopy(fresh)
    try:
        prunus.load(fresh, saved)
    except (RuntimeError, KeyboardInterrupt):
        assert same(fresh, before)
    else:
        assert left[0] >= 0, "all steps ran"


def test_a_load_that_succeeds_is_right(saved: Path) -> None:
    fresh = prunus.load(model(2), saved)
    reference = model(1)
    prunus.prune_(reference, prunus.Unstructured(0.7))
    x = torch.randn(3, 24)
    torch.testing.assert_close(fresh(x), reference(x))
