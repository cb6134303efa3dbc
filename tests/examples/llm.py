"""A language model: prune it 2:4 against its own loss, remove a quarter of its neurons, write a directory.

python tests/examples/llm.py [MODEL_DIR OUT_DIR]

MODEL_DIR: a transformers model directory with safetensors. Without it: a small Llama with random weights,
which shows the calls and no quality.
"""

import sys
from pathlib import Path

import torch

import prunus
from prunus import NM, Neurons, Taylor


def random_llama() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=500, **sizes))


def loss(model: torch.nn.Module, batch: dict) -> torch.Tensor:
    """Of the next token. Padding would have the label -100."""
    return model(**batch, labels=batch["input_ids"]).loss


torch.manual_seed(0)
model = prunus.load_pretrained(sys.argv[1]) if len(sys.argv) > 1 else random_llama().eval()
# Real text in a real run: 128 windows of 512 tokens are usual.
words = model.config.vocab_size
batches = [{"input_ids": torch.randint(words, (2, 32))} for _ in range(4)]

# Structure first: the model itself gets narrower, on every machine and in every engine.
print(prunus.shrink_(model, Neurons(0.25), calibration=batches))

# Then two of every four inputs, by how much the loss would change.
print(prunus.prune_(model, NM(2, 4), Taylor(loss), batches))

# One token at a time is what generation does after the prompt.
print(prunus.accelerate_(model, {"input_ids": batches[0]["input_ids"][:1, :1]}))
with torch.no_grad():
    ids = model.generate(batches[0]["input_ids"][:1], max_new_tokens=8, do_sample=False, pad_token_id=0)
print(f"{ids.shape[1]} tokens, the last {ids[0, -8:].tolist()}")

if len(sys.argv) > 2:
    out = Path(sys.argv[2])
    model.config.save_pretrained(out)
    prunus.save(model, out / "prunus.safetensors")
    print(f"prunus.load_pretrained({sys.argv[2]!r}) reads it back")
