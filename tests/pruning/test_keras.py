"""The Keras page of the documentation, run as it stands (Keras 3 on its torch backend)."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

import prunus

PAGE = Path(__file__).with_name("keras.md")


@pytest.fixture(scope="module")
def keras():
    """Imported when a test runs: it takes seconds."""
    os.environ["KERAS_BACKEND"] = "torch"  # read once, at the import
    return pytest.importorskip("keras")


@pytest.fixture(scope="module")
def names(keras):
    """What the example leaves behind."""
    example, training = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    found = {}
    exec(compile(example, str(PAGE), "exec"), found)
    found["before_training"] = found["model"].get_weights()
    exec(compile(training, str(PAGE), "exec"), found)
    return found


def test_every_output_unit_keeps_the_same_number_of_inputs(names):
    kernel, bias = names["model"].get_layer("up").get_weights()
    assert kernel.shape == (64, 128)  # Keras: (k, n)
    assert (np.count_nonzero(kernel, axis=0) == 16).all()
    assert bias.shape == (128,)


def test_zeros_stay_zero_in_training_and_the_rest_moves(names):
    before, after = names["before_training"][0], names["model"].get_weights()[0]
    assert np.array_equal(before == 0, after == 0)
    assert (before != after)[before != 0].mean() > 0.9


def test_the_kernel_as_it_is_would_be_pruned_along_the_wrong_axis(names):
    """The trap that the page warns of is real: without .T the units lose different numbers of inputs."""
    kernel, _ = names["model"].get_layer("up").get_weights()
    random = np.random.default_rng(1).standard_normal(kernel.shape, dtype=np.float32)
    wrong = prunus.select(np.abs(random), prunus.Unstructured(0.75, scope="row"))
    assert len(set(np.count_nonzero(wrong, axis=0))) > 1
    two_of_four = prunus.select(np.abs(random).T, prunus.NM(2, 4))
    assert (two_of_four.reshape(128, 16, 4).sum(2) == 2).all()


def test_the_sparse_kernels_give_what_keras_gives(names):
    np.testing.assert_allclose(names["sparse"], names["pruned"], rtol=1e-4, atol=1e-5)
    assert names["sparse"].shape == (32, 10)
    assert names["packed"].shape == (128, 64)
    assert names["packed"].sparsity == 0.75
    assert not np.allclose(names["pruned"], names["dense"], atol=1e-3)


@pytest.mark.parametrize(
    ("make", "inputs", "matrix"),
    [
        (lambda keras: keras.layers.Conv2D(8, 3), (1, 6, 6, 4), lambda w: w.reshape(-1, w.shape[-1]).T),
        (
            lambda keras: keras.layers.EinsumDense("abc,cde->abde", (None, 2, 4)),
            (1, 3, 8),
            lambda w: w.reshape(w.shape[0], -1).T,
        ),
    ],
    ids=["convolution", "attention"],
)
def test_other_kernels_as_a_matrix(keras, make, inputs, matrix):
    """Row i of the matrix is what makes output i: silencing it silences that output and no other."""
    layer = make(keras)
    layer(np.ones(inputs, dtype=np.float32))
    kernel, *rest = layer.get_weights()
    w = matrix(kernel)
    assert np.shares_memory(w, kernel)
    w[1] = 0
    layer.set_weights([kernel, *rest])
    made = np.asarray(layer(np.ones(inputs, dtype=np.float32)).detach())
    outputs = np.abs(made.reshape(-1, len(w))).max(0)
    assert [i for i, value in enumerate(outputs) if value == 0] == [1]
