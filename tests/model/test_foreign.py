"""Model directories that other tools pruned open as dense models with the same zeros, or say what is wrong.

The files are made here, byte by byte, as compressed-tensors and torch.nn.utils.prune lay them out.
"""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

import prunus

transformers = pytest.importorskip("transformers")

from small_models import build  # noqa: E402

WORDS = {
    torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64", torch.uint8: "U8",
    torch.int8: "I8", torch.bool: "BOOL",
}  # fmt: skip
UNSTRUCTURED = {
    "quant_method": "compressed-tensors",
    "version": "0.9.1",
    "config_groups": {},
    "ignore": [],
    "sparsity_config": {
        "format": "sparse-bitmask",
        "global_sparsity": 50.0,
        "registry_requires_subclass": False,
        "sparsity_structure": "unstructured",
        "targets": ["Linear"],
        "ignore": [],
    },
}
State = dict[str, torch.Tensor]


def write(path: Path, state: State) -> None:
    """A safetensors file: eight bytes of length, JSON, the tensors."""
    header: dict[str, Any] = {}
    data = b""
    for name, tensor in state.items():
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": WORDS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def bitmask(weight: torch.Tensor, base: str, layout: str = "sparse-bitmask") -> State:
    """The parts of one weight, a row and a bit at a time; 2:4 keeps the first two of four that could be."""
    rows = weight if weight.dim() == 2 else weight[None]
    values, offsets, masks = [], [], []
    for row in rows:
        kept = [i for i, value in enumerate(row.tolist()) if value != 0]
        if layout == "sparse-24-bitmask":
            kept = []
            for at in range(0, len(row), 4):
                here = [i for i in range(at, at + 4) if row[i] != 0]
                kept += sorted((here + [i for i in range(at, at + 4) if i not in here])[:2])
        offsets.append(len(values))
        values += [row[i] for i in kept]
        masks.append([sum(1 << i % 8 for i in kept if i // 8 == byte) for byte in range(-(-len(row) // 8))])
    packed = torch.tensor(masks, dtype=torch.uint8)
    shape = torch.tensor(list(weight.shape))
    compressed = torch.stack(values) if values else torch.zeros(0, dtype=weight.dtype)
    if layout == "sparse-24-bitmask":
        return {
            f"{base}.shape": shape[:, None],
            f"{base}.compressed": compressed.reshape(len(rows), -1),
            f"{base}.bitmask": packed,
        }
    return {
        f"{base}.shape": shape,
        f"{base}.compressed": compressed,
        f"{base}.bitmask": packed if weight.dim() == 2 else packed[0],
        f"{base}.row_offsets": torch.tensor(offsets if weight.dim() == 2 else offsets[0]),
    }


def pruned(name: str = "llama", pattern: Any = None, dtype: torch.dtype = torch.float32) -> Any:
    model = build(name).to(dtype)
    prunus.prune_(model, pattern or prunus.Unstructured(0.6))
    return model


def directory(folder: Path, model: Any, state: State, config: dict[str, Any] | None = None) -> Path:
    model.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    write(folder / "model.safetensors", state)
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | (config or {})))
    return folder


def is_linear(model: Any, key: str) -> bool:
    owner = model.get_submodule(key.rpartition(".")[0])
    return key.endswith(".weight") and isinstance(owner, torch.nn.Linear)


def compressed(model: Any, layout: str = "sparse-bitmask") -> State:
    """As llm-compressor writes a model: Linear layers in bit masks (2:4: not the head), the rest as it is."""
    state: State = {}
    for key, tensor in model.state_dict().items():
        if is_linear(model, key) and (layout == "sparse-bitmask" or key != "lm_head.weight"):
            state |= bitmask(tensor, key.removesuffix(".weight"), layout)
        else:
            state[key] = tensor
    return state


def same(opened: Any, model: Any) -> None:
    assert type(opened) is type(model)
    assert not opened.training
    want, got = model.state_dict(), opened.state_dict()
    assert want.keys() == got.keys()
    for key, tensor in want.items():
        assert got[key].dtype == tensor.dtype, key
        assert torch.equal(got[key], tensor), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_sparse_bitmask(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = pruned(name, dtype=dtype)
    opened = prunus.load_pretrained(
        directory(tmp_path, model, compressed(model), {"quantization_config": UNSTRUCTURED})
    )
    same(opened, model)
    assert not hasattr(opened.config, "quantization_config")


def test_two_of_four(tmp_path: Path) -> None:
    model = pruned(pattern=prunus.NM(2, 4))
    with torch.no_grad():  # fewer than two of four: zeros are among the kept
        model.model.layers[0].mlp.up_proj.weight[:3] = 0
    about = {**UNSTRUCTURED, "sparsity_config": {"format": "sparse-24-bitmask", "sparsity_structure": "2:4"}}
    state = compressed(model, "sparse-24-bitmask")
    same(prunus.load_pretrained(directory(tmp_path, model, state, {"quantization_config": about})), model)


@pytest.mark.parametrize("key", ["compression_config", "sparsity_config", None])
def test_older_files(key: str | None, tmp_path: Path) -> None:
    """The first versions compressed every tensor under its whole name; some configs say nothing."""
    model = pruned()
    state: State = {}
    for name, tensor in model.state_dict().items():
        state |= bitmask(tensor, name)
    inner = UNSTRUCTURED["sparsity_config"]
    config = {key: inner if key == "sparsity_config" else {"sparsity_config": inner}} if key else {}
    same(prunus.load_pretrained(directory(tmp_path, model, state, config)), model)


def test_declared_but_dense(tmp_path: Path) -> None:
    model = pruned()
    about = {**UNSTRUCTURED, "format": "dense", "sparsity_config": {"format": "dense"}}
    folder = directory(tmp_path, model, model.state_dict(), {"quantization_config": about})
    same(prunus.load_pretrained(folder), model)


def shards(folder: Path, state: State, parts: int = 3) -> dict[str, str]:
    """The state in several files, the parts of one weight in different ones."""
    (folder / "model.safetensors").unlink()
    table = {}
    for part in range(parts):
        name = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        keys = list(state)[part::parts]
        write(folder / name, {key: state[key] for key in keys})
        table |= dict.fromkeys(keys, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    return table


def test_shards(tmp_path: Path) -> None:
    model = pruned()
    state = compressed(model)
    shards(directory(tmp_path, model, state, {"quantization_config": UNSTRUCTURED}), state)
    same(prunus.load_pretrained(tmp_path), model)


@pytest.mark.parametrize("kind", [torch.float32, torch.bool, torch.uint8])
def test_masks_of_torch(kind: torch.dtype, tmp_path: Path) -> None:
    model = pruned("bert")
    dense = build("bert").state_dict()
    state: State = {}
    for key, tensor in model.state_dict().items():
        if is_linear(model, key):
            state[f"{key}_orig"] = torch.where(tensor != 0, tensor, dense[key])
            state[f"{key}_mask"] = (tensor != 0).to(kind)
            state[f"{key}_orig"][tensor == 0] = float("inf")  # what a mask hides need not be a number
        else:
            state[key] = tensor
    same(prunus.load_pretrained(directory(tmp_path, model, state)), model)


def test_what_was_pruned_again_is_ours(tmp_path: Path) -> None:
    """The config of a directory that prunus writes no longer speaks of a compression."""
    model = pruned()
    source = directory(tmp_path / "a", model, compressed(model), {"quantization_config": UNSTRUCTURED})
    opened = prunus.load_pretrained(source)
    prunus.checkpoint.write_pretrained(opened, source, tmp_path / "b")
    assert "quantization_config" not in json.loads((tmp_path / "b/config.json").read_text())
    same(prunus.load_pretrained(tmp_path / "b"), model)
    opened.save_pretrained(tmp_path / "c")
    same(type(model).from_pretrained(tmp_path / "c").eval(), model)


BASE = "model.layers.0.mlp.up_proj"


def without(part: str) -> Any:
    return lambda state: state.pop(f"{BASE}.{part}")


def put(part: str, make: Any) -> Any:
    def change(state: State) -> None:
        state[f"{BASE}.{part}"] = make(state[f"{BASE}.{part}"])

    return change


def sizes(*numbers: int) -> Any:
    return put("shape", lambda _: torch.tensor(numbers))


def last_bits(mask: torch.Tensor) -> torch.Tensor:
    mask = mask.clone()
    mask[0, 0] ^= 1
    return mask


BAD = [
    (
        without("compressed"),
        r"'model\.layers\.0\.mlp\.up_proj': expected compressed, bitmask and shape.*no \[",
    ),
    (without("bitmask"), r"expected compressed, bitmask and shape.*up_proj\.bitmask"),
    (without("shape"), r"expected compressed, bitmask and shape.*up_proj\.shape"),
    (put("shape", lambda _: torch.tensor([4, 4, 4])), r"up_proj\.shape': expected one or two integers"),
    (put("shape", lambda _: torch.ones(2)), r"up_proj\.shape': expected one or two integers, got F32"),
    (sizes(-1, 16), r"up_proj\.shape': expected sizes, got \[-1, 16\]"),
    (sizes(2**62, 4), r"up_proj\.shape': expected sizes"),
    (sizes(2**30, 2**30), r"expected no more elements than the model of this config has"),
    (sizes(2**10, 16), r"up_proj\.bitmask': expected U8 \(1024, 2\)"),
    (sizes(32, 17), r"up_proj\.bitmask': expected U8 \(32, 3\)"),
    (put("bitmask", last_bits), r"up_proj': compressed: expected \d+ values for the bits that are set, got"),
    (put("bitmask", lambda m: m.view(torch.int8)), r"up_proj\.bitmask': expected U8"),
    (put("compressed", lambda v: v[:-1]), r"up_proj': compressed: expected \d+ values"),
    (put("compressed", lambda v: v.to(torch.int8)), r"compressed: expected numbers of F64.*got I8"),
    (put("row_offsets", lambda r: r + 1), r"row_offsets': expected where the rows of the bitmask begin"),
    (put("row_offsets", lambda r: r[:-1]), r"row_offsets': expected 32 integers, got I64 \(31,\)"),
    (lambda state: state.update({f"{BASE}.weight": torch.ones(32, 16)}), r"up_proj\.weight': expected once"),
]


@pytest.mark.parametrize(("change", "sentence"), BAD)
def test_malformed(change: Any, sentence: str, tmp_path: Path) -> None:
    model = pruned()
    state = compressed(model)
    change(state)
    folder = directory(tmp_path, model, state, {"quantization_config": UNSTRUCTURED})
    with pytest.raises(prunus.FormatError, match=sentence):
        prunus.load_pretrained(folder)


def test_bits_after_the_last_column(tmp_path: Path) -> None:
    model = pruned()
    state = compressed(model) | bitmask(torch.ones(32, 12), BASE)
    state[f"{BASE}.bitmask"][3, 1] |= 16
    with pytest.raises(prunus.FormatError, match="zero bits after the last column, got ones"):
        prunus.load_pretrained(directory(tmp_path, model, state))


def test_another_shape_than_the_model_has(tmp_path: Path) -> None:
    model = pruned()
    state = compressed(model) | bitmask(torch.ones(32, 12), BASE)
    with pytest.raises(prunus.FormatError, match="expected the weights of its config"):
        prunus.load_pretrained(directory(tmp_path, model, state))


def test_a_bitmask_is_not_unpacked_for_more_than_the_model_holds(tmp_path: Path) -> None:
    """Eight million numbers of zero bits in a megabyte, and no values."""
    model = pruned()
    state = compressed(model) | bitmask(torch.zeros(1, 8), BASE)
    state |= {f"{BASE}.shape": torch.tensor([2**10, 2**13])}
    state |= {f"{BASE}.bitmask": torch.zeros(2**10, 2**10, dtype=torch.uint8)}
    with pytest.raises(prunus.FormatError, match="expected no more elements than the model of this config"):
        prunus.load_pretrained(directory(tmp_path, model, state))


GROUP = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4}}}


@pytest.mark.parametrize(
    ("about", "extra", "sentence"),
    [
        ({"config_groups": GROUP}, {}, "config_groups: expected none: prunus opens pruned weights"),
        ({"kv_cache_scheme": {"num_bits": 8}}, {}, "kv_cache_scheme: expected none"),
        ({"format": "pack-quantized"}, {}, "format: expected dense, sparse-bitmask.*got pack-quantized"),
        ({"sparsity_config": {"format": "marlin-24"}}, {}, "got marlin-24"),
        ({"sparsity_config": 3}, {}, "sparsity_config: expected an object, got 3"),
        ({"sparsity_config": {"format": ["x"]}}, {}, "compression format: expected"),
        ({}, {f"{BASE}.weight_packed": torch.ones(2)}, "pruned only, got quantised"),
    ],
)
def test_quantised(about: dict[str, Any], extra: State, sentence: str, tmp_path: Path) -> None:
    model = pruned()
    config = {"quantization_config": UNSTRUCTURED | about}
    with pytest.raises(prunus.FormatError, match=sentence):
        prunus.load_pretrained(directory(tmp_path, model, compressed(model) | extra, config))


def test_masks_that_are_none(tmp_path: Path) -> None:
    model = pruned("bert")
    state = model.state_dict()
    key = "encoder.layer.0.output.dense.weight"
    weight = state.pop(key)
    for mask, sentence in (
        (torch.full_like(weight, 0.5), "expected zeros and ones, got other numbers"),
        (torch.ones(3), r"_mask': expected shape \[16, 32\], got \[3\]"),
    ):
        bad = {**state, f"{key}_orig": weight, f"{key}_mask": mask}
        with pytest.raises(prunus.FormatError, match=sentence):
            prunus.load_pretrained(directory(tmp_path, model, bad))


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "a.bin", 3, "\ud800.safetensors"])
def test_an_index_stays_in_its_folder(name: Any, tmp_path: Path) -> None:
    model = pruned()
    state = compressed(model)
    table = shards(directory(tmp_path, model, state, {"quantization_config": UNSTRUCTURED}), state)
    table[next(iter(table))] = name
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    with pytest.raises(prunus.FormatError, match=r"weight_map: expected names|expected complete safetensors"):
        prunus.load_pretrained(tmp_path)


def test_one_tensor_in_two_files(tmp_path: Path) -> None:
    model = pruned()
    state = compressed(model)
    shards(directory(tmp_path, model, state, {"quantization_config": UNSTRUCTURED}), state)
    first = next(iter(state))
    write(tmp_path / "model-00002-of-00003.safetensors", {first: state[first]})
    with pytest.raises(prunus.FormatError, match="expected in one file, got in two"):
        prunus.load_pretrained(tmp_path)


@pytest.mark.parametrize("size", [4, 100, -7])
def test_truncated(size: int, tmp_path: Path) -> None:
    model = pruned()
    file = directory(tmp_path, model, compressed(model)) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(prunus.FormatError, match="expected complete safetensors files"):
        prunus.load_pretrained(tmp_path)
