"""A sentence-transformers model goes in as it is, with the dictionary that it makes of texts."""

import copy
import warnings

import pytest
import torch
from small_models import save_bert
from torch import nn

import prunus
from prunus import SparseLinear, Unstructured
from prunus._tools.running import call_with
from prunus.accelerate import race

sentence_transformers = pytest.importorskip("sentence_transformers")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "bus", "is", "late", "again", "today"]
TEXTS = ["the bus is late", "today", "the bus is late again today", "late again"]


@pytest.fixture(autouse=True)
def short(monkeypatch, set_threads):
    monkeypatch.setattr(race, "SECONDS", 0.0)
    set_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_bert(path, WORDS)
    return str(path)


@pytest.fixture
def model(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sentence_transformers.SentenceTransformer(folder, device="cpu")


def features(model, texts=TEXTS):
    return (getattr(model, "preprocess", None) or model.tokenize)(texts)


def encoded(model):
    return model.encode(TEXTS, convert_to_tensor=True, show_progress_bar=False)


def test_pruned_and_accelerated(model):
    dense, given = copy.deepcopy(model), features(model)
    names = list(given)
    report = prunus.prune_(model, Unstructured(0.5, scope="row"), prunus.SparseGPT(), [given])
    assert report.summary["sparsity"] > 0.4
    pruned = encoded(model)
    assert 0.3 < torch.cosine_similarity(pruned, encoded(dense)).mean() < 0.9999
    accelerated = prunus.accelerate_(model, given, min_speedup=0.0)
    assert accelerated.summary["converted"] >= 12
    assert any(isinstance(module, SparseLinear) for module in model.modules())
    assert torch.allclose(encoded(model), pruned, atol=1e-5)
    # A forward writes its results into the dictionary that it gets: never into the caller's.
    assert list(given) == names
    compared = prunus.compare(dense, model, [given, features(model, TEXTS[:1])])
    assert {"sentence_embedding", "token_embeddings"} <= {row["figure"] for row in compared.rows}
    assert compared.summary["cosine"] < 0.9999


def test_shrunk_and_saved_by_its_own_save(model, tmp_path):
    prunus.shrink_(model, prunus.Neurons(0.5), [features(model)])
    expected = encoded(model)
    model.save(str(tmp_path / "shrunk"))
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "shrunk"), device="cpu")
    assert again[0].auto_model.config.intermediate_size == 32
    assert torch.allclose(encoded(again), expected, atol=1e-6)
    # And packed layers beside it, in a file of ours.
    prunus.accelerate_(model, features(model), "int8", min_speedup=0.0)
    prunus.save(model, tmp_path / "fast.safetensors")
    prunus.load(again, tmp_path / "fast.safetensors")
    assert any(isinstance(module, SparseLinear) for module in again.modules())
    assert torch.allclose(encoded(again), encoded(model), atol=1e-6)


@pytest.mark.parametrize(("to", "file"), [("onnx", "m.onnx"), ("openvino", "m.xml")])
def test_exported_with_its_pooling(model, to, file, tmp_path):
    pytest.importorskip("onnxruntime" if to == "onnx" else "openvino")
    prunus.prune_(model, Unstructured(0.7))
    prunus.accelerate_(model, features(model), min_speedup=0.0)
    report = prunus.export(model, features(model), tmp_path / file, to)
    assert "sentence_embedding" in report.summary["outputs"]
    assert report.summary["inputs"]["input_ids"] == ["batch", "length"]
    if to == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(tmp_path / file))
        given = features(model, TEXTS[1:])
        arrays = {one.name: given[one.name].numpy() for one in session.get_inputs()}
        (found,) = session.run(["sentence_embedding"], arrays)
        expected = model.encode(TEXTS[1:], show_progress_bar=False)
        assert abs(found - expected).max() < 1e-4


def test_only_who_asks_for_a_dictionary_gets_one():
    class One(nn.Module):
        def forward(self, features: dict[str, torch.Tensor], scale: float = 2.0) -> torch.Tensor:
            return features["x"] * scale

    class Words(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
            return x

    given = {"x": torch.ones(2)}
    assert torch.equal(call_with(One(), given), torch.full((2,), 2.0))
    assert call_with(Words(), given) is given["x"]
    with pytest.raises(TypeError, match="unexpected keyword"):
        call_with(nn.Sequential(nn.ReLU()), given)
