"""Training a pruned model: what is zero stays zero, the rest makes up for it.

python tests/examples/keep_zeros.py
"""

import torch
from torch import nn

import prunus
from prunus import Magnitude, Unstructured

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32))
x = torch.randn(512, 32)
target = torch.tanh(x @ torch.randn(32, 32) / 32**0.5)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)


def train(steps: int) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def zeros() -> int:
    return sum(int((layer.weight == 0).sum()) for layer in model if isinstance(layer, nn.Linear))


print(f"dense: loss {train(300):.4f}")
prunus.prune_(model, Unstructured(0.8), Magnitude())
pruned = zeros()
with torch.no_grad():
    damaged = float(nn.functional.mse_loss(model(x), target))

# Momentum from before and weight decay would move the zeros: nothing moves them inside the block.
with prunus.keep_zeros(model, optimizer):
    recovered = train(300)
print(f"80 % zeros: loss {damaged:.4f}, after training {recovered:.4f}, zeros {pruned} and {zeros()}")
assert zeros() == pruned
assert recovered < damaged
