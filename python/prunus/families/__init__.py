"""What prunus knows about model architectures, as data.

A `Family` names the parts of one transformer block (attention and MLP projections, norms, activation)
relative to the block, the list that holds the blocks, and the config numbers that follow the shapes. A model
belongs to the family whose names all resolve in every block, so task heads, wrappers and derived models need
no entry of their own.

Known are, with what has the same names:

| stacks | families |
|---|---|
| encoders | bert (RoBERTa, ELECTRA), distilbert, mpnet, albert, deberta-v2, modernbert, vit (DeiT) |
| two towers | clip (SigLIP) |
| decoders | gpt2, gptj, gpt_neox, bloom, falcon, opt, phi, phi3, llama (Mistral, Qwen2, Qwen3, Gemma) |
| decoders with experts | mixtral (Qwen3-MoE) |
| encoder and decoder | bart (mBART, Marian, M2M100, Pegasus, Whisper), t5 and t5-gated (mT5, UMT5) |

`shrink_` leaves alone, and says why: heads of bloom, mpnet and of falcon with ALiBi; the first block of t5
and modernbert. The heads of t5 go in all blocks alike, the neurons of each expert by its own importance.

An unknown architecture is described in ten lines:

>>> import torch
>>> from prunus.families import Family, find_family, register_family
>>> class Block(torch.nn.Module):
...     def __init__(self):
...         super().__init__()
...         self.to_qkv, self.to_out = torch.nn.Linear(8, 24), torch.nn.Linear(8, 8)
...         self.fc_in, self.fc_out = torch.nn.Linear(8, 32), torch.nn.Linear(32, 8)
...         self.act, self.n_heads, self.d_head = torch.nn.GELU(), 2, 4
>>> mine = Family(
...     name="mine",
...     blocks="stack",  # the attribute that holds the nn.ModuleList of blocks
...     qkv="to_qkv",  # one fused projection, rows [q; k; v]; three names q=, k=, v= when separate
...     o="to_out",
...     up="fc_in",
...     down="fc_out",
...     act="act",  # what stands between up and down
...     attention="",  # the module that holds the head counts: here the block itself
...     head_size=("d_head",),  # its attribute with the width of one head
... )
>>> register_family(mine)
>>> model = torch.nn.Module()
>>> model.stack = torch.nn.ModuleList([Block(), Block()])
>>> find_family(model).name
'mine'
"""

from prunus.families.family import READERS, Family, Stack
from prunus.families.linears import (
    FilterFn,
    in_adapter,
    is_conv1d,
    is_linear,
    is_plain_linear,
    memory,
    owners,
    stored_weight,
    weight_count,
    weight_matrix,
)
from prunus.families.lookup import (
    blocks,
    find_family,
    find_stack,
    find_stacks,
    fused_parts,
    outer_lists,
    register_family,
    stacks,
)

__all__ = [
    "READERS",
    "Family",
    "FilterFn",
    "Stack",
    "blocks",
    "find_family",
    "find_stack",
    "find_stacks",
    "fused_parts",
    "in_adapter",
    "is_conv1d",
    "is_linear",
    "is_plain_linear",
    "memory",
    "outer_lists",
    "owners",
    "register_family",
    "stacks",
    "stored_weight",
    "weight_count",
    "weight_matrix",
]
