"""export: an ordinary file that answers as the model does, or no file."""

import copy
import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import prunus
from prunus import SparseLinear, Unstructured
from prunus._tools.interrupts import SignalStack, own_signal_stack
from prunus._tools.running import module_bytes
from prunus.engines import packages, verb

transformers = pytest.importorskip("transformers")
FILES = {"onnx": "model.onnx", "openvino": "model.xml"}
SIZES = {"vocab_size": 60, "initializer_range": 0.2}


@pytest.fixture(params=FILES)
def to(request: pytest.FixtureRequest) -> str:
    """Every engine that is installed."""
    for name in verb.KINDS[request.param].packages:
        pytest.importorskip(name)
    return str(request.param)


@pytest.fixture
def onnx_only() -> None:
    for name in verb.KINDS["onnx"].packages:
        pytest.importorskip(name)


def bert(width: int = 32) -> nn.Module:
    torch.manual_seed(0)
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "max_position_embeddings": 64}
    config = transformers.BertConfig(**SIZES, **shape, num_hidden_layers=2, num_attention_heads=4)
    return transformers.BertModel(config).eval()


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES, **shape)).eval()


def llama() -> nn.Module:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(**SIZES, **shape, num_key_value_heads=2, tie_word_embeddings=True)
    return transformers.LlamaForCausalLM(config).eval()


def tokens(texts: int, length: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Padded on the right, but for the last text."""
    ids = torch.randint(1, 60, (texts, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[:-1, -(length // 3) :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def read(path: Path, inputs: dict[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
    """By the engine itself and by name, nothing of ours between."""
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return dict(zip(names, map(torch.from_numpy, session.run(names, arrays)), strict=True))
    import openvino

    with own_signal_stack():
        compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(arrays)
    return {name: torch.from_numpy(np.array(found[name])) for name in names}


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())


@pytest.mark.parametrize("make", [bert, gpt2, llama])
def test_a_pruned_and_accelerated_model(make, to: str, tmp_path: Path) -> None:
    model = make()
    prunus.prune_(model, Unstructured(0.7))
    prunus.accelerate_(model, tokens(2, 12), min_speedup=0.0)
    kinds = {name: type(module) for name, module in model.named_modules()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    packed = sum(kind is not None and issubclass(kind, SparseLinear) for kind in kinds.values())
    assert packed >= 8
    path = tmp_path / FILES[to]
    report = prunus.export(model, tokens(3, 12), path, to)
    # The model is what it was.
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert getattr(model.config, "use_cache", True)
    # The file answers for sizes that nobody traced.
    other = tokens(5, 31, seed=1)
    with torch.no_grad():
        expected = model(**other)
    for name, tensor in read(path, other, report.summary["outputs"]).items():
        assert error(tensor, expected[name]) < 1e-4
    s = report.summary
    assert s["inputs"] == {"input_ids": ["batch", "length"], "attention_mask": ["batch", "length"]}
    assert s["outputs"][0] in ("last_hidden_state", "logits")
    assert s["unpacked"] == packed
    assert s["bytes_model"] == module_bytes(model)
    assert s["bytes_file"] == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert [row["sizes"] for row in report.rows] == [
        "batch 3, length 12",
        "batch 5, length 17",
        "batch 1, length 12",
    ]
    assert 0 < s["error"] < 1e-4
    assert f"Wrote {path}" in str(report)


def test_removed_neurons_are_not_in_the_file(to: str, tmp_path: Path) -> None:
    model, sizes = bert(), []
    for name in ("dense", "shrunk"):
        path = tmp_path / f"{name}{verb.KINDS[to].suffix}"
        prunus.export(model, tokens(2, 8), path, to)
        sizes.append((path if to == "onnx" else path.with_suffix(".bin")).stat().st_size)
        prunus.shrink_(model, prunus.Neurons(0.5), tokens(4, 12))
    gone = 2 * 2 * 32 * 32 * 4  # two blocks, two matrices, half of 64 x 32, four bytes
    assert sizes[0] - sizes[1] >= gone


def test_low_precision_in_the_file(to: str, tmp_path: Path) -> None:
    model, path = bert(width=128), tmp_path / FILES[to]
    whole = prunus.export(model, tokens(2, 8), path, to).summary
    word = {"onnx": "int8", "openvino": "float16"}[to]
    small = prunus.export(model, tokens(2, 8), path, to, word).summary
    assert small["dtype"] == word
    assert small["bytes_file"] < 0.8 * whole["bytes_file"]
    assert small["error"] > 3 * whole["error"]
    with pytest.raises(
        ValueError, match=r"answer as it does, got a relative error of .* more than max_error 1e-06"
    ):
        prunus.export(model, tokens(2, 8), tmp_path / ("other" + path.suffix), to, word, max_error=1e-6)
    assert not list(tmp_path.glob("other*"))


def test_what_low_precision_in_the_model_rounds(to: str, tmp_path: Path) -> None:
    """The file has the weights as they were rounded; only the activations are not quantised there."""
    model = bert()
    prunus.accelerate_(model, tokens(2, 12), "int8", min_speedup=0.0)
    assert any(isinstance(module, SparseLinear) for module in model.modules())
    summary = prunus.export(model, tokens(2, 12), tmp_path / FILES[to], to).summary
    assert summary["error"] < 1e-4 < summary["model_error"] < 0.1


def test_a_bfloat16_model_becomes_float32(to: str, tmp_path: Path) -> None:
    model = bert().bfloat16()
    prunus.export(model, tokens(2, 8), tmp_path / FILES[to], to)
    assert next(model.parameters()).dtype == torch.bfloat16
    found = read(tmp_path / FILES[to], tokens(4, 9), ["last_hidden_state"])
    with torch.no_grad():
        expected = copy.deepcopy(model).float()(**tokens(4, 9))
    assert error(found["last_hidden_state"], expected.last_hidden_state) < 1e-4


class Two(nn.Module):
    """Two tensors of features and a flag in, names of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(
        self, left: torch.Tensor, right: torch.Tensor, double: bool = False
    ) -> dict[str, torch.Tensor]:
        total = self.left(left) + self.right(right)
        return {"sum": 2 * total if double else total, "count": torch.tensor(3)}


def test_a_tuple_with_a_constant(to: str, tmp_path: Path) -> None:
    model, x = Two(), torch.randn(1, 6)
    report = prunus.export(model, (x, 2 * x, True), tmp_path / FILES[to], to)
    assert report.summary["inputs"] == {"left": ["batch", "-"], "right": ["batch", "-"]}
    assert report.summary["outputs"] == ["sum"]
    x = torch.randn(7, 6)
    found = read(tmp_path / FILES[to], {"left": x, "right": -x}, ["sum"])
    with torch.no_grad():
        assert error(found["sum"], model(x, -x, True)["sum"]) < 1e-5


def test_a_name_on_both_sides(to: str, tmp_path: Path) -> None:
    class Same(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"x": x + 1, "again": x.flip(0)}

    report = prunus.export(Same(), {"x": torch.ones(2, 3)}, tmp_path / FILES[to], to)
    assert report.summary["outputs"] == ["x_out", "again"]


def test_a_list_of_batches_is_checked_on_each(to: str, tmp_path: Path) -> None:
    report = prunus.export(bert(), [tokens(2, 8), tokens(4, 20)], tmp_path / FILES[to], to)
    sizes = [row["sizes"] for row in report.rows]
    assert sizes[:2] == ["batch 2, length 8", "batch 4, length 20"]


def test_a_size_that_the_model_fixes(to: str, tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.across = nn.Linear(5, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.across(x.transpose(1, 2))

    report = prunus.export(Fixed(), torch.randn(2, 5, 3), tmp_path / FILES[to], to)
    assert report.summary["inputs"] == {"x": ["batch", "-", "-"]}


class Branch(nn.Module):
    """What a trace cannot hold: another answer for many texts."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 3 if len(x) > 3 else x + 1


def test_a_forward_that_a_trace_gets_wrong(to: str, tmp_path: Path) -> None:
    path = tmp_path / FILES[to]
    path.write_text("what was there")
    with pytest.raises(
        ValueError, match=r"model: expected the exported file to answer as it does, got .* batch 5"
    ):
        prunus.export(Branch(), torch.ones(3, 2), path, to)
    assert path.read_text() == "what was there"
    assert [file.name for file in tmp_path.iterdir()] == [FILES[to]]


class Odd(nn.Module):
    """An operator that no engine has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.lstsq(x, x).solution


def test_a_forward_that_an_engine_cannot_hold(to: str, tmp_path: Path) -> None:
    title = verb.KINDS[to].title
    with pytest.raises(ValueError, match=rf"model: expected a forward that {title} can hold, got .*linalg_l"):
        prunus.export(Odd(), torch.eye(3), tmp_path / FILES[to], to)
    assert not list(tmp_path.iterdir())


def test_a_language_model_without_a_mask(to: str, tmp_path: Path) -> None:
    ids = tokens(3, 10)["input_ids"]
    report = prunus.export(llama(), (ids,), tmp_path / FILES[to], to)
    assert report.summary["inputs"] == {"input_ids": ["batch", "length"]}
    other = tokens(2, 23, seed=2)["input_ids"]
    found = read(tmp_path / FILES[to], {"input_ids": other}, ["logits"])
    with torch.no_grad():
        assert error(found["logits"], llama()(other).logits) < 1e-4


@pytest.mark.usefixtures("onnx_only")
def test_a_file_that_its_engine_cannot_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """torch's exporter gives the attention of nn.TransformerEncoder the traced length."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    with pytest.raises(ValueError, match=r"a forward that ONNX Runtime can hold, got one with: .*Resh"):
        prunus.export(layer, torch.randn(2, 9, 16), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")
    pytest.importorskip("openvino")
    prunus.export(layer, torch.randn(2, 9, 16), tmp_path / "m.xml", "openvino")


def test_half_of_a_pair_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "model.xml"
    prunus.export(nn.Linear(3, 2), torch.ones(2, 3), path, "openvino")
    real = verb.write_atomic

    def full(target: Path, data: bytes) -> None:
        if target.suffix == ".xml":
            raise OSError("disk full")
        real(target, data)

    monkeypatch.setattr(verb, "write_atomic", full)
    with pytest.raises(OSError, match="disk full"):
        prunus.export(nn.Linear(3, 4), torch.ones(2, 3), path, "openvino")
    assert not path.exists()


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        ({"model": 3}, TypeError, r"model: expected a torch\.nn\.Module, got int"),
        ({"to": "tflite"}, ValueError, "to: expected onnx or openvino, got 'tflite'"),
        ({"dtype": "float16"}, ValueError, "dtype: expected"),
        ({"max_error": -1.0}, ValueError, "max_error: expected a finite number >= 0, got -1"),
        ({"path": "DIR"}, ValueError, r"path: expected a file ending in \.onnx, got the directory"),
        ({"path": "DIR/m.xml"}, ValueError, r"path: expected a file ending in \.onnx, got"),
        ({"path": "DIR/no/m.onnx"}, ValueError, "path: expected a file in an existing directory, got"),
        (
            {"example_inputs": {"a": [torch.ones(1)]}},
            TypeError,
            "example_inputs: expected a tensor for a, got a list",
        ),
        ({"example_inputs": {"a": 3}}, ValueError, "example_inputs: expected at least one tensor, got none"),
        ({"example_inputs": 3}, TypeError, "example_inputs: expected a tensor"),
        (
            {"model": nn.Linear(3, 2, device="meta")},
            ValueError,
            "model: expected weights, got weight on the meta",
        ),
        ({"model": nn.Embedding(3, 2), "example_inputs": torch.ones(2, 3)}, RuntimeError, "."),
    ],
)
@pytest.mark.usefixtures("onnx_only")
def test_bad_arguments(change: dict, kind: type, sentence: str, tmp_path: Path) -> None:
    given = {
        "model": nn.Linear(3, 2),
        "example_inputs": torch.ones(2, 3),
        "path": tmp_path / "m.onnx",
        "to": "onnx",
    }
    given |= change
    if isinstance(given["path"], str):
        given["path"] = given["path"].replace("DIR", str(tmp_path))
    with pytest.raises(kind, match=sentence):
        prunus.export(**given)
    assert not list(tmp_path.iterdir())


def test_another_batch_with_other_names(to: str, tmp_path: Path) -> None:
    batches = [tokens(2, 8), {"input_ids": torch.ones(2, 8, dtype=torch.long)}]
    with pytest.raises(
        ValueError, match=r"example_inputs\[1\]: expected the tensors \['input_ids', 'attention_mask'\]"
    ):
        prunus.export(bert(), batches, tmp_path / FILES[to], to)


def test_no_floating_point_outputs(to: str, tmp_path: Path) -> None:
    class Count(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.argmax(-1)

    with pytest.raises(ValueError, match="expected a model with floating-point outputs, got none"):
        prunus.export(Count(), torch.ones(2, 3), tmp_path / FILES[to], to)


@pytest.mark.parametrize("to", FILES)
def test_an_engine_that_is_not_installed(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    package = verb.KINDS[to].packages[0]
    with pytest.raises(ImportError, match=rf"needs the package {package}, .* pip install 'prunus\[export\]'"):
        prunus.export(nn.Linear(3, 2), torch.ones(2, 3), tmp_path / FILES[to], to)


def test_the_stack_of_signal_handlers_stays_ours(tmp_path):
    """Where there is AMX OpenVINO gives the thread another, and frees it: Ctrl-C would end the process."""
    pytest.importorskip("openvino")
    before = SignalStack.exchange()
    prunus.export(nn.Linear(64, 64), torch.ones(2, 64), tmp_path / "model.xml", to="openvino")
    now = SignalStack.exchange()
    assert (now and now.sp) == (before and before.sp)


def test_a_block_that_takes_the_stack_gives_it_back():
    memory = ctypes.create_string_buffer(1 << 16)
    before = SignalStack.exchange()
    with own_signal_stack():
        SignalStack.exchange(SignalStack(ctypes.addressof(memory), 0, 1 << 16))
        assert SignalStack.exchange().sp == ctypes.addressof(memory)
    assert SignalStack.exchange().sp == before.sp
