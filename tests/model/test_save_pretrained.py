"""save_pretrained of accelerated and shrunk models writes what from_pretrained opens, or says what does."""

import copy
import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from prunus import Heads, Layers, Neurons, SparseLinear, Unstructured

transformers = pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "shrink"))

from shrink_models import CASES, FAMILY_OF, batches, make, output  # noqa: E402

BATCH = batches(seed=4)[0]
# Whose classes have no place for the biases that shrink_ adds: mistral and qwen2 in the MLP and after the
# attention, gptj and mixtral after the attention, phi3 everywhere.
NO_BIAS = {"mistral", "qwen2", "phi3", "gptj", "mixtral"}
# Whose configs have a size of a head, so that they can say fewer heads; the others are filled up.
FREE_HEADS = {"llama", "llama-bias", "mistral", "qwen2", "phi", "phi3", "mixtral", "qwen3-moe"}


def again(model: nn.Module, folder: Path) -> nn.Module:
    """Saved and opened by transformers alone; every tensor was in the file and has its shape."""
    model.save_pretrained(folder)
    opened, found = type(model).from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert not found["mismatched_keys"]
    assert not any(isinstance(module, SparseLinear) for module in opened.modules())
    return opened.eval()


def same(one: nn.Module, other: nn.Module, atol: float = 1e-5) -> None:
    torch.testing.assert_close(output(one, BATCH), output(other, BATCH), rtol=1e-4, atol=atol)


@pytest.mark.parametrize("name", ["bert", "bert-mlm", "gpt2", "llama", "opt", "phi3"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_accelerated(name: str, precision: str, tmp_path: Path) -> None:
    model = make(name, dtype=torch.float32)
    prunus.prune_(model, Unstructured(0.8))
    dense = copy.deepcopy(model)
    report = prunus.accelerate_(model, BATCH, precision, min_speedup=0.0, max_error=10.0)
    assert report.summary["converted"] > 0
    opened = again(model, tmp_path)
    weights = {name: module for name, module in model.named_modules() if isinstance(module, SparseLinear)}
    for path, layer in weights.items():
        assert torch.equal(opened.get_submodule(path).weight, layer.weight), path
    if precision == "float32":
        same(opened, dense)
        state = dense.state_dict()
        assert all(torch.equal(tensor, state[key]) for key, tensor in opened.state_dict().items())
    assert any(isinstance(module, SparseLinear) for module in model.modules())


def test_copies_and_pickles_save_themselves(tmp_path: Path) -> None:
    model = make("bert", dtype=torch.float32)
    prunus.prune_(model, Unstructured(0.8))
    prunus.accelerate_(model, BATCH, min_speedup=0.0)
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    torch.save(model, tmp_path / "model.pt")
    twins.append(torch.load(tmp_path / "model.pt", weights_only=False))
    for i, twin in enumerate(twins):
        with torch.no_grad():
            twin.embeddings.word_embeddings.weight.add_(1.0)
        same(again(twin, tmp_path / str(i)), twin)
    assert model.save_pretrained.model is model
    assert [twin.save_pretrained.model is twin for twin in twins] == [True] * 3


def test_a_state_that_is_given_is_made_dense_too(tmp_path: Path) -> None:
    model = make("bert", dtype=torch.float32)
    prunus.prune_(model, Unstructured(0.8))
    prunus.accelerate_(model, BATCH, min_speedup=0.0)
    model.save_pretrained(tmp_path, True, model.state_dict())
    same(type(model).from_pretrained(tmp_path).eval(), model)


def test_a_loaded_model_saves_as_it_should(tmp_path: Path) -> None:
    model = make("bert", dtype=torch.float32)
    prunus.prune_(model, Unstructured(0.8))
    prunus.accelerate_(model, BATCH, min_speedup=0.0)
    prunus.save(model, tmp_path / "m.safetensors")
    loaded = prunus.load(make("bert", seed=1, dtype=torch.float32), tmp_path / "m.safetensors")
    same(again(loaded, tmp_path / "dir"), model)


@pytest.mark.parametrize("name", [name for name, kind in CASES if kind == "neurons"])
def test_uneven_neurons(name: str, tmp_path: Path) -> None:
    model = make(name, dtype=torch.float32)
    shrunk = prunus.shrink_(model, Neurons(0.3, scope="model", compensate="none"))
    assert shrunk.summary["config"]
    same(again(model, tmp_path), model)


@pytest.mark.parametrize("name", [name for name, kind in CASES if kind == "heads"])
def test_fewer_heads(name: str, tmp_path: Path) -> None:
    model = make(name, dtype=torch.float32)
    report = prunus.shrink_(model, Heads(0.5, compensate="none"))
    assert bool(report.summary["config"]) == (name not in FREE_HEADS)
    prunus.shrink_(model, Layers([1]))
    same(again(model, tmp_path), model)


@pytest.mark.parametrize("name", FAMILY_OF)
def test_biases_that_were_added(name: str, tmp_path: Path) -> None:
    """Where the config can announce them they are written, where it cannot it is refused: never dropped."""
    model = make(name, dtype=torch.float32)
    wanted = [what for kind, what in (("neurons", Neurons), ("heads", Heads)) if (name, kind) in CASES]
    reports = [prunus.shrink_(model, what(0.5), batches()) for what in wanted]
    added = sum(report.summary["biases_added"] for report in reports)
    config = model.config.to_dict()
    if added and name in NO_BIAS:
        with pytest.raises(
            ValueError, match=r"expected tensors that a \w+ has, got .*bias: .*load_pretrained"
        ):
            model.save_pretrained(tmp_path / "out")
        assert not (tmp_path / "out").exists()
    else:
        same(again(model, tmp_path), model)
    after = model.config.to_dict()
    assert {key: after[key] for key in config if key not in ("architectures", "dtype")} == {
        key: value for key, value in config.items() if key not in ("architectures", "dtype")
    }


@pytest.mark.parametrize("name", sorted(NO_BIAS | {"bert", "bloom", "albert"}))
def test_the_way_that_is_named_works(name: str, tmp_path: Path) -> None:
    model = make(name, dtype=torch.float32)
    model.save_pretrained(tmp_path / "dense")
    for kind, what in (("neurons", Neurons(0.3, scope="model")), ("heads", Heads(0.5))):
        if (name, kind) in CASES:
            prunus.shrink_(model, what, batches())
    prunus.checkpoint.write_pretrained(model, tmp_path / "dense", tmp_path / "out")
    sentence = json.loads((tmp_path / "out/config.json").read_text())["prunus"]
    assert "prunus.load_pretrained(DIR)" in sentence
    assert sentence in (tmp_path / "out/PRUNUS.md").read_text()
    loaded = prunus.load_pretrained(tmp_path / "out")
    same(loaded, model)
    assert not hasattr(loaded.config, "prunus")
    if name == "bert":
        same(again(loaded, tmp_path / "ordinary"), model)
        assert "prunus" not in json.loads((tmp_path / "ordinary/config.json").read_text())


def test_shrunk_pruned_and_accelerated(tmp_path: Path) -> None:
    model = make("gpt2", dtype=torch.float32)
    prunus.shrink_(model, Neurons(0.3, scope="model"), batches())
    prunus.shrink_(model, Heads(0.5), batches())
    prunus.prune_(model, Unstructured(0.7))
    prunus.accelerate_(model, BATCH, min_speedup=0.0)
    same(again(model, tmp_path), model)


def test_an_ordinary_model_is_left_alone() -> None:
    model = make("bert", dtype=torch.float32)
    prunus.prune_(model, Unstructured(0.5))
    prunus.shrink_(model, Neurons(0.5))
    prunus.accelerate_(model, BATCH, min_speedup=1e9)
    assert "save_pretrained" not in vars(model)


def test_sentence_transformers(tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules as models

    bert = make("bert", dtype=torch.float32)
    bert.save_pretrained(tmp_path / "bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
    (tmp_path / "bert/vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(tmp_path / "bert/vocab.txt")).save_pretrained(tmp_path / "bert")
    body = models.Transformer(str(tmp_path / "bert"), max_seq_length=32)
    model = sentence_transformers.SentenceTransformer(modules=[body, models.Pooling(32)], device="cpu")
    texts = ["a b c", "d e f g"]
    prunus.prune_(model, Unstructured(0.7))
    expected = model.encode(texts)
    inner = next(module for module in model.modules() if isinstance(module, type(bert)))
    prunus.accelerate_(inner, BATCH, min_speedup=0.0)
    assert any(isinstance(module, SparseLinear) for module in model.modules())
    model.save(str(tmp_path / "out"))
    opened = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert abs(opened.encode(texts) - expected).max() < 1e-5
    assert abs(model.encode(texts) - expected).max() < 1e-5
