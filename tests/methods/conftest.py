"""Tiny models of the three kinds of transformer, and batches for them."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

VOCABULARY = 60
# The usual 0.02 would make blocks this narrow close to the identity.
SPREAD = {"vocab_size": VOCABULARY, "initializer_range": 0.2}


def bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    return BertModel(BertConfig(num_hidden_layers=2, **SPREAD, **sizes))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(**SPREAD, bos_token_id=0, eos_token_id=0, **sizes))


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32}
    return LlamaForCausalLM(LlamaConfig(**SPREAD, num_hidden_layers=2, **sizes))


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Embedding(VOCABULARY, 16),
        nn.Linear(16, 32),
        nn.ReLU(),
        nn.Linear(32, 16),
        nn.Tanh(),
        nn.Linear(16, 8),
    )


BUILDERS: dict[str, Callable[[], nn.Module]] = {"bert": bert, "gpt2": gpt2, "llama": llama, "plain": plain}
_MADE: dict[str, nn.Module] = {}


def make(name: str) -> nn.Module:
    """A fresh copy of the model `name`, the same weights every time."""
    if name not in _MADE:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            _MADE[name] = BUILDERS[name]().eval()
    return copy.deepcopy(_MADE[name])


def tokens(count: int = 4, rows: int = 3, length: int = 10, seed: int = 1) -> list[torch.Tensor]:
    """Batches of token ids (rows, length)."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, VOCABULARY, (rows, length), generator=generator) for _ in range(count)]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=list(BUILDERS))
def model(request: pytest.FixtureRequest) -> nn.Module:
    return make(request.param)


@pytest.fixture(params=["bert", "gpt2", "llama"])
def transformer(request: pytest.FixtureRequest) -> nn.Module:
    return make(request.param)


@pytest.fixture
def build() -> Callable[[str], nn.Module]:
    return make


@pytest.fixture
def batches() -> list[torch.Tensor]:
    return tokens()
