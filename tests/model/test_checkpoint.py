"""save and load: exact, small, tied, atomic; a damaged file is refused with the name of the field."""

import copy
import json
import os
import struct
import zlib

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from model_zoo import IDS, Tiny, sparse_, tiny
from safetensors import safe_open
from safetensors.torch import save_file
from small_models import Sizes, build
from torch import nn

from prunus import FormatError, SparseLinear, accelerate_, load, save
from prunus.accelerate import race as race_module
from prunus.packed import FLOAT_FORMATS


@pytest.fixture(autouse=True)
def few_passes(monkeypatch):
    monkeypatch.setattr(race_module, "MIN_PASSES", 1)
    monkeypatch.setattr(race_module, "SECONDS", 0.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def run(model):
    with torch.no_grad():
        return model.eval()(IDS)["logits"]


def same_state(a, b):
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(x[n].dtype == y[n].dtype and torch.equal(x[n], y[n]) for n in x)


def rewrite(path, change):
    """Change the metadata object of a file and make its checksum right again."""
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        about = json.loads(file.metadata()["prunus"])
    change(about, tensors)
    text = json.dumps(about)
    save_file(tensors, path, {"prunus": text, "prunus_crc32": f"{zlib.crc32(text.encode()):08x}"})


@pytest.mark.parametrize("sparse", [False, True])
def test_round_trip_into_a_fresh_model(path, sparse):
    model = tiny()
    if sparse:
        accelerate_(model, IDS, min_speedup=0)
        assert isinstance(model.down, SparseLinear)
    model.steps.fill_(7)
    model.norm.weight.data[0] = -0.0
    save(model, path)
    fresh = Tiny()
    table = fresh.embed.weight
    assert load(fresh, path) is fresh
    assert same_state(fresh, model)
    assert torch.equal(run(fresh), run(model))
    assert fresh.embed.weight is table
    assert fresh.head.weight is fresh.embed.weight
    assert fresh.twice[0] is fresh.twice[1]
    assert isinstance(fresh.up, SparseLinear) == sparse
    assert fresh.steps == 7
    assert torch.signbit(fresh.norm.weight[0])
    assert len(path.read_bytes()) < 0.55 * sum(t.nbytes for t in Tiny().state_dict().values())
    again = copy.deepcopy(fresh)
    assert same_state(load(again, path), model)


def test_pruned_dense_weights_are_exact(path):
    """Special values survive: -0.0 is kept, so are NaN, infinity and subnormals."""
    model = sparse_(nn.Sequential(nn.Linear(40, 30)), 0.8)
    special = torch.tensor([-0.0, float("nan"), float("inf"), 1e-42])
    model[0].weight.data[0, :4] = special
    save(model, path)
    with safe_open(path, "pt") as file:
        assert sorted(file.keys()) == ["0.bias", "0.weight:mask", "0.weight:values"]
        assert file.get_tensor("0.weight:mask").shape == (150,)
    fresh = load(nn.Sequential(nn.Linear(40, 30)), path)
    bits = [m[0].weight.data.view(torch.int32) for m in (fresh, model)]
    assert torch.equal(*bits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_come_from_the_file(path, dtype):
    model = sparse_(nn.Sequential(nn.Linear(40, 30), nn.LayerNorm(30))).to(dtype)
    save(model, path)
    fresh = load(nn.Sequential(nn.Linear(40, 30), nn.LayerNorm(30)), path)
    assert same_state(fresh, model)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (7, 1), (1, 9)])
def test_odd_shapes(path, shape):
    model = nn.Module()
    model.w = nn.Parameter(torch.zeros(shape))
    model.scalar = nn.Parameter(torch.tensor(2.0))
    save(model, path)
    fresh = nn.Module()
    fresh.w, fresh.scalar = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.tensor(0.0))
    assert same_state(load(fresh, path), model)


def test_into_a_model_on_the_meta_device(path):
    model = tiny()
    accelerate_(model, IDS, min_speedup=0)
    save(model, path)
    with torch.device("meta"):
        fresh = Tiny()
    load(fresh, path)
    assert same_state(fresh, model)
    assert fresh.head.weight is fresh.embed.weight
    assert isinstance(fresh.embed.weight, nn.Parameter)
    assert torch.equal(run(fresh), run(model))


def test_a_buffer_that_stays_on_meta_is_an_error(path):
    model = nn.Sequential(nn.Linear(4, 4))
    save(model, path)
    fresh = nn.Sequential(nn.Linear(4, 4, device="meta"))
    fresh.register_buffer("table", torch.zeros(3, device="meta"), persistent=False)
    with pytest.raises(ValueError, match="model: expected tensors with data, got 'table' on the meta device"):
        load(fresh, path)
    with pytest.raises(ValueError, match=r"got '0\.weight' on the meta device"):
        save(fresh, path)


def test_ties_are_made_and_undone(path):
    tied, untied = Tiny(), Tiny()
    untied.head.weight = nn.Parameter(torch.randn(50, 64))
    save(untied, path)
    load(tied, path)
    assert tied.head.weight is not tied.embed.weight
    assert same_state(tied, untied)
    save(Tiny(), path)
    load(untied, path)
    assert untied.head.weight is untied.embed.weight


@pytest.mark.parametrize("format", FLOAT_FORMATS)
@pytest.mark.parametrize(
    ("dtype", "bytes_per_value"), [("float32", 4), ("bfloat16", 2), ("float16", 2), ("int8", 1)]
)
def test_value_types(path, fit, dtype, format, bytes_per_value):
    """The file holds values of the packed type; only a scale of int8 may move by its last bit."""
    linear = sparse_(nn.Linear(60, 40), 0.8)
    linear.weight.data[4:8] = 0.0
    linear.weight.data = torch.from_numpy(fit(linear.weight.detach().numpy(), format))
    layer = SparseLinear.from_linear(linear, dtype=dtype, format=format)
    save(nn.Sequential(layer), path)
    assert (
        path.stat().st_size < 300 + 40 * 60 / 8 + bytes_per_value * layer.packed_weight.nnz + 160 + 160 + 600
    )
    fresh = load(nn.Sequential(nn.Linear(60, 40)), path)
    assert fresh[0].packed_weight.dtype == dtype
    got, expected = (torch.from_numpy(m.packed_weight.to_dense()) for m in (fresh[0], layer))
    torch.testing.assert_close(got, expected, rtol=3e-7 if dtype == "int8" else 0, atol=0)
    save(fresh, path)
    assert same_state(load(nn.Sequential(nn.Linear(60, 40)), path), fresh)


def test_conv1d_of_gpt2(path):
    sizes = Sizes(vocabulary=30, hidden=32, layers=1)
    model = build("gpt2", sizes)
    table = model.transformer.wte.weight.detach().clone()
    sparse_(model)
    model.transformer.wte.weight.data.copy_(table)
    ids = {"input_ids": IDS[:2] % 30}
    report = accelerate_(model, ids, min_speedup=0)
    assert [row["name"] for row in report.rows if not row["converted"]] == ["lm_head"]
    save(model, path)
    fresh = load(build("gpt2", sizes), path)
    assert fresh.lm_head.weight is fresh.transformer.wte.weight
    with torch.no_grad():
        assert torch.equal(fresh(**ids).logits, model(**ids).logits)


def test_activation_and_a_sparse_layer_as_the_model(path):
    layer = SparseLinear.from_linear(sparse_(nn.Linear(20, 10)), activation="gelu").requires_grad_(False)
    save(layer, path)
    fresh = load(SparseLinear(20, 10), path).requires_grad_(False)
    x = torch.randn(3, 20)
    assert torch.equal(fresh(x), layer(x))
    assert fresh.activation == "gelu"
    with pytest.raises(ValueError, match="got the bare Linear"):
        load(nn.Linear(20, 10), path)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Tiny(width=32), "model: expected .* of shape .* as in the file, got"),
        (lambda: nn.Sequential(nn.Linear(3, 3)), "model: expected"),
        (lambda: nn.Sequential(Tiny()), "model: expected"),
        (lambda: "model", "model: expected a torch.nn.Module"),
    ],
)
@pytest.mark.parametrize("sparse", [False, True])
def test_another_architecture_is_refused_untouched(path, make, sentence, sparse):
    model = tiny()
    if sparse:
        accelerate_(model, IDS, min_speedup=0)
    save(model, path)
    other = make()
    before = copy.deepcopy(other.state_dict()) if isinstance(other, nn.Module) else {}
    with pytest.raises((ValueError, TypeError), match=sentence):
        load(other, path)
    assert all(torch.equal(other.state_dict()[name], before[name]) for name in before)


def test_names_that_differ_are_listed(path):
    save(nn.Sequential(nn.Linear(3, 3)), path)
    with pytest.raises(ValueError, match=r"no \['0.bias'\]"):
        load(nn.Sequential(nn.Linear(3, 3, bias=False)), path)
    with pytest.raises(ValueError, match=r"unexpected \['1.bias', '1.weight'\]"):
        load(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), path)


def test_a_failed_save_keeps_the_old_file(path, monkeypatch):
    save(tiny(), path)
    before = path.read_bytes()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        save(tiny(seed=1), path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_save_refuses_what_it_cannot_hold(path):
    model = nn.Linear(3, 3)
    model.register_buffer("sparse", torch.eye(3).to_sparse())
    with pytest.raises(TypeError, match="ordinary tensors in its state, got Tensor 'sparse'"):
        save(model, path)
    clash = nn.Module()
    clash.w = nn.Parameter(torch.zeros(4, 4))
    clash.register_parameter("w:mask", nn.Parameter(torch.ones(2)))
    with pytest.raises(ValueError, match="expected tensor names without ':mask'"):
        save(clash, path)
    assert not path.exists()


def test_other_files_are_refused(path):
    with pytest.raises(FileNotFoundError):
        load(Tiny(), path)
    for content in (b"", b"x", b"\x00" * 100, b'{"version": 1}', os.urandom(1000)):
        path.write_bytes(content)
        with pytest.raises(FormatError, match="file: expected a complete safetensors file"):
            load(Tiny(), path)
    save_file({"w": torch.ones(3)}, path)
    with pytest.raises(FormatError, match=r"metadata: expected a file written by prunus\.save"):
        load(Tiny(), path)
    with pytest.raises((FormatError, OSError)):
        load(Tiny(), path.parent)


def test_a_newer_version_is_refused_with_a_sentence(path):
    save(tiny(), path)
    rewrite(path, lambda about, _: about.update(version=2))
    with pytest.raises(
        FormatError, match="version: expected at most 1, got 2: a newer prunus wrote this file"
    ):
        load(Tiny(), path)


def set_mask_bit(about, tensors):
    tensors["up.weight:mask"][0] ^= 1
    about["crc32"]["up.weight:mask"] = zlib.crc32(tensors["up.weight:mask"].numpy().data)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda a, _: a.update(version="1"), "version: expected a number from 1 up, got 1"),
        (lambda a, _: a.update(version=0), "version: expected"),
        (lambda a, _: a.update(version=True), "version: expected"),
        (lambda a, _: a.pop("entries"), "entries: expected an object, got None"),
        (lambda a, _: a.pop("crc32"), "crc32: expected an object, got None"),
        (lambda a, _: a.update(experts=[3]), r"experts: expected a list of names, got \[3\]"),
        (lambda a, _: a["crc32"].pop("norm.bias"), "crc32: expected a checksum for every tensor"),
        (lambda a, _: a["crc32"].update({"norm.bias": 1}), "tensor 'norm.bias': expected checksum 1, got"),
        (
            lambda a, _: a["entries"].pop("norm.bias"),
            r"entries: expected an entry for every tensor.*norm\.bias",
        ),
        (
            lambda a, _: a["entries"]["norm.bias"].update(shape=[8, 8]),
            r"tensor 'norm.bias': expected shape \[8, 8\]",
        ),
        (lambda a, _: a["entries"].update(x={"kind": "dense"}), r"entries\['x'\]: expected tensors \['x'\]"),
        (
            lambda a, _: a["entries"].update(x={"kind": "pickle"}),
            r"entries\['x'\].kind: expected one of dense, masked, scaled, got pickle",
        ),
        (lambda a, _: a["entries"].update(x=3), r"entries\['x'\]: expected an object, got 3"),
        (lambda a, _: a["entries"]["up.weight"].update(shape=[-1, 3]), "shape: expected a list of sizes"),
        (lambda a, _: a["entries"]["up.weight"].update(shape=[128, True]), "shape: expected a list of sizes"),
        (
            lambda a, _: a["entries"]["up.weight"].update(shape=[2**70, 3]),
            r"entries\['up.weight'\].shape: expected a list of sizes",
        ),
        (
            lambda a, _: a["entries"]["up.weight"].update(shape=[127, 64]),
            "up.weight:mask'?: expected 1016 bytes",
        ),
        (set_mask_bit, "up.weight:values'?: expected .* values"),
        (
            lambda a, _: a["ties"].update(x="nobody"),
            r"ties\['x'\]: expected the name of an entry, got nobody",
        ),
        (lambda a, _: a["ties"].update({"norm.bias": "norm.weight"}), r"ties\['norm.bias'\]: expected"),
        (lambda a, _: a["sparse"].update(up=1), r"sparse\['up'\]: expected an object, got 1"),
        (
            lambda a, _: a["sparse"]["up"].update(activation="os.system"),
            "activation: expected one of None, relu",
        ),
        (
            lambda a, _: a["sparse"]["up"].update(activation=["relu"]),
            "activation: expected one of None, relu",
        ),
        (lambda a, _: a["sparse"]["up"].update(dtype="float8"), "dtype: expected float32, .* got float8"),
        (
            lambda a, _: a["sparse"]["up"].update(dtype="float16"),
            r"sparse\['up'\]: expected a 2-D float16 tensor",
        ),
        (
            lambda a, _: a["sparse"].update(norm=a["sparse"]["up"]),
            r"sparse\['norm'\]: expected a 2-D float32",
        ),
        (lambda a, _: a.update(geometry=3), "geometry: expected an object, got 3"),
    ],
)
def test_every_field_is_checked(path, change, sentence):
    model = tiny()
    accelerate_(model, IDS, min_speedup=0)
    save(model, path)
    rewrite(path, change)
    fresh = Tiny()
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(FormatError, match=sentence):
        load(fresh, path)
    assert all(torch.equal(fresh.state_dict()[name], before[name]) for name in before)


@pytest.fixture(scope="module")
def file_bytes(tmp_path_factory):
    model = Tiny(width=8)
    sparse_(model, 0.7)
    model.up = SparseLinear.from_linear(model.up)
    path = tmp_path_factory.mktemp("file") / "model.safetensors"
    save(model, path)
    return path.read_bytes()


def refused(content, folder):
    path = folder / "damaged.safetensors"
    path.write_bytes(content)
    fresh = Tiny(width=8)
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(FormatError):
        load(fresh, path)
    after = fresh.state_dict()
    assert before.keys() == after.keys()
    return all(torch.equal(after[name], before[name]) for name in before)


def test_truncated_anywhere(file_bytes, tmp_path):
    header = 8 + struct.unpack("<Q", file_bytes[:8])[0]
    cuts = {
        *range(0, 24),
        *range(24, len(file_bytes), 97),
        header - 1,
        header,
        header + 1,
        len(file_bytes) - 1,
    }
    for cut in sorted(cuts):
        assert refused(file_bytes[:cut], tmp_path), cut
    assert refused(file_bytes + b"\x00", tmp_path)


@settings(max_examples=300)
@given(st.data())
def test_any_flipped_byte_is_refused(file_bytes, tmp_path_factory, data):
    position = data.draw(st.integers(0, len(file_bytes) - 1))
    flip = data.draw(st.integers(1, 255))
    damaged = bytearray(file_bytes)
    damaged[position] ^= flip
    header = 8 + struct.unpack("<Q", file_bytes[:8])[0]
    # White space behind the JSON header means nothing; all else is under a checksum or a comparison.
    old, new = file_bytes[position : position + 1], damaged[position : position + 1]
    assume(not (position < header and old.isspace() and new.isspace()))
    assert refused(bytes(damaged), tmp_path_factory.getbasetemp())
