"""An architecture of your own: prunus needs no knowledge of it to prune and accelerate its Linear layers.

python tests/examples/own_model.py
"""

import torch
from torch import nn

import prunus
from prunus import Block, Unstructured, Wanda


class Mixer(nn.Module):
    """Two branches, one gate, a head that must stay dense."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.embed = nn.Linear(16, width)
        self.branches = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.gate = nn.Linear(width, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.embed(x))
        left, right = (branch(hidden) for branch in self.branches)
        return self.head(left * torch.sigmoid(self.gate(hidden)) + right)


torch.manual_seed(0)
model, inputs = Mixer().eval(), torch.randn(64, 16)
before = model(inputs)

# A pattern per layer, by name: whole blocks in the branches, single weights in the gate.
patterns = {
    "branches.0": Block((4, 4), 0.8),
    "branches.1": Block((4, 4), 0.8),
    "gate": Unstructured(0.9, scope="row"),
}
# By default prunus keeps to what repeats (here the two branches): filter_fn says what else may be pruned.
report = prunus.prune_(model, patterns, Wanda(repair=True), [inputs], lambda module, name: name in patterns)
print(report)
assert report.pruned == list(patterns)

# The same function keeps the head dense.
found = prunus.accelerate_(model, inputs, filter_fn=lambda module, name: name != "head")
print(found)
assert isinstance(model.head, nn.Linear)

error = float(((model(inputs) - before).norm() / before.norm()).detach())
print(f"relative error of the outputs {error:.3f}")
