"""The optimiser of recovery."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prunus.recover.muon import Muon, orthogonalized

SIZES = st.integers(1, 40)


@given(rows=SIZES, columns=SIZES, scale=st.sampled_from([1e-20, 1.0, 1e12]), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_singular_vectors_stay_and_values_come_near_one(
    rows: int, columns: int, scale: float, seed: int
) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * scale
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    found = left.mT @ orthogonalized(matrix).double() @ right.mT
    diagonal = found.diagonal()
    assert (found - torch.diag(diagonal)).abs().max() < 0.1
    strong = values > 0.05 * matrix.double().norm()
    assert diagonal[strong].min() > 0.5
    assert diagonal.abs().max() < 1.5


def test_what_is_zero_stays_zero() -> None:
    assert not orthogonalized(torch.zeros(3, 4)).any()
    assert orthogonalized(torch.zeros(2, 0, 4)).shape == (2, 0, 4)


def moved(parameters: list[Tensor], gradients: list[list[Tensor]]) -> list[Tensor]:
    """The parameters after a step with each list of gradients."""
    own = [nn.Parameter(p.clone()) for p in parameters]
    optimizer = Muon([{"params": [p], "lr": 0.01 * (i + 1)} for i, p in enumerate(own)])
    for step in gradients:
        for p, gradient in zip(own, step, strict=True):
            p.grad = gradient.clone()
        optimizer.step()
    return [p.detach() for p in own]


def test_matrices_of_one_shape_do_not_mix() -> None:
    torch.manual_seed(0)
    start = [torch.randn(6, 4), torch.randn(6, 4)]
    steps = [[torch.randn(6, 4), torch.zeros(6, 4)] for _ in range(3)]
    both = moved(start, steps)
    alone = moved(start[:1], [step[:1] for step in steps])
    torch.testing.assert_close(both[0], alone[0])
    assert torch.equal(both[1], start[1])


def test_experts_are_matrices_one_behind_the_other() -> None:
    torch.manual_seed(0)
    start, step = torch.randn(3, 8, 5), torch.randn(3, 8, 5)
    together = moved([start], [[step]])[0]
    for expert, gradient, found in zip(start, step, together, strict=True):
        torch.testing.assert_close(moved([expert], [[gradient]])[0], found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(5,), (), (1, 7), (200, 8), (3, 1, 7)], ids=str)
def test_vectors_and_long_matrices_move_as_in_adam(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    start, steps = torch.randn(shape), [torch.randn(shape) for _ in range(4)]
    other = nn.Parameter(start.clone())
    adam = torch.optim.Adam([other], lr=0.01, betas=(0.9, 0.98))
    for step in steps:
        other.grad = step.clone()
        adam.step()
    found = moved([start], [[step] for step in steps])[0]
    torch.testing.assert_close(found, other.detach(), atol=1e-6, rtol=1e-5)


def test_a_step_is_as_large_as_adams() -> None:
    torch.manual_seed(0)
    gradient = torch.randn(48, 32)
    found = moved([torch.zeros(48, 32)], [[gradient]])[0]
    assert 0.1 < float(found.square().mean().sqrt()) / 0.01 < 0.3


def test_it_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    start = [torch.randn(6, 4), torch.randn(6)]
    steps = [[torch.randn_like(p) for p in start] for _ in range(4)]
    wanted = moved(start, steps)

    own: list[Any] = [nn.Parameter(p.clone()) for p in start]

    def fresh() -> Muon:
        return Muon([{"params": [p], "lr": 0.01 * (i + 1)} for i, p in enumerate(own)])

    optimizer = fresh()
    for number, step in enumerate(steps):
        if number == 2:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = fresh()
            optimizer.load_state_dict(state)
        for p, gradient in zip(own, step, strict=True):
            p.grad = gradient.clone()
        optimizer.step()
    for p, other in zip(own, wanted, strict=True):
        assert torch.equal(p, other)


def test_without_a_gradient_nothing_moves() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = Muon([{"params": [weight], "lr": 0.1}])
    optimizer.step()
    assert torch.equal(weight, torch.ones(2, 2))
    with pytest.raises(TypeError, match="closure: expected None"):
        optimizer.step(lambda: 0.0)
