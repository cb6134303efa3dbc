"""Ctrl-C, wherever it comes and however often, leaves a model as it was or changed as a whole."""

import copy
import os
import signal
from typing import Any

import pytest
import torch
from model_zoo import sparse_
from torch import nn

import prunus
from prunus import Heads, Neurons, SparseLinear
from prunus.accelerate import race as race_module
from prunus.accelerate import trial, verb
from prunus.accelerate.survey import Site
from prunus.nn import Fusion
from prunus.shrink.edits import Edits

transformers = pytest.importorskip("transformers")
IDS = torch.arange(24).view(2, 12)


@pytest.fixture(autouse=True)
def few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race_module, "MIN_PASSES", 1)
    monkeypatch.setattr(race_module, "SECONDS", 0.0)
    monkeypatch.setattr("prunus.accelerate.fused.SLACK", 1e9)  # everything is fused


def bert() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 1}
    return transformers.BertModel(transformers.BertConfig(vocab_size=50, **sizes)).eval()


def kinds(model: nn.Module) -> list[tuple[str, str]]:
    return [(name, type(module).__name__) for name, module in model.named_modules()]


def interrupt() -> None:
    """Two within an instant."""
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)


class At:
    """Calls `interrupt` before the n-th call of one of some functions, and at every later one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, *places: tuple[Any, str]) -> None:
        self.left, self.reached = number, False
        for owner, name in places:
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name)))

    def counted(self, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                self.reached = True
                interrupt()
            return function(*args, **kwargs)

        return call


PLACES = ((Site, "put"), (Fusion, "put"), (trial, "relative_error"), (verb, "save_ordinarily"))


@pytest.mark.parametrize("number", [0, 1, 5, 6, 7, 8, 9, 10, 11, 12])
def test_accelerate(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    model = sparse_(bert())
    before, state = kinds(model), copy.deepcopy(model.state_dict())
    at = At(monkeypatch, number, *PLACES)
    with pytest.raises(KeyboardInterrupt):
        prunus.accelerate_(model, IDS, min_speedup=0.0)
    assert at.reached
    assert kinds(model) == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert "save_pretrained" not in vars(model)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_all_of_those_places_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sparse_(bert())
    at = At(monkeypatch, 10**6, *PLACES)
    report = prunus.accelerate_(model, IDS, min_speedup=0.0)
    assert report.summary["converted"] == 7
    assert len(report.summary["fused"]) >= 2
    assert 10**6 - at.left > 12


def changed(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()] + [
        ("heads", model.encoder.layer[0].attention.self.num_attention_heads),
        ("config", model.config.intermediate_size),
    ]


@pytest.mark.parametrize("what", [Neurons(0.5), Heads(0.5)])
@pytest.mark.parametrize("number", [0, 2, 4])
def test_shrink(monkeypatch: pytest.MonkeyPatch, what: Any, number: int) -> None:
    model, left = bert(), [number]

    class Watched(type(model.encoder.layer[0].output.dense)):  # type: ignore[misc]
        def __setattr__(self, name: str, value: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                interrupt()
            super().__setattr__(name, value)

    expected = copy.deepcopy(model)
    prunus.shrink_(expected, what)
    whole, before = changed(expected), changed(model)
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Watched
    left[0] = number
    apply = Edits.apply
    monkeypatch.setattr(Edits, "apply", lambda self: (interrupt() if number == 0 else None, apply(self))[1])
    with pytest.raises(KeyboardInterrupt):
        prunus.shrink_(model, what)
    assert changed(model) in (whole, before)


@pytest.mark.parametrize("back", [True, False])
def test_fusing_and_the_way_back(monkeypatch: pytest.MonkeyPatch, back: bool) -> None:
    model = sparse_(bert())
    for block in model.encoder.layer:
        for parent, name in ((block.intermediate, "dense"), (block.output, "dense")):
            setattr(parent, name, SparseLinear.from_linear(getattr(parent, name)))
    whole = copy.deepcopy(model)
    (prunus.to_dense_ if back else prunus.fuse_)(whole)

    class Children(dict):  # type: ignore[type-arg]
        def __setitem__(self, key: Any, value: Any) -> None:
            interrupt()
            super().__setitem__(key, value)

        def update(self, *args: Any) -> None:
            interrupt()
            super().update(*args)

    for module in model.modules():
        vars(module)["_modules"] = Children(module._modules)
    with pytest.raises(KeyboardInterrupt):
        (prunus.to_dense_ if back else prunus.fuse_)(model)
    assert kinds(model) == kinds(whole)
