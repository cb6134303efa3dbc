"""`save_pretrained` of a changed model: it writes what `from_pretrained` opens, or says what does.

`transformers` writes a model's state beside its config. A packed layer's state is bytes that no class reads,
a width that differs from block to block has no place in a config, and neither has a bias that `shrink_`
added. So packed layers are written dense, what was cut is filled up with zeros, which changes no answer, and
a bias is announced in the config where the class has a flag for it.
"""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prunus.families import is_conv1d, is_linear, stacks
from prunus.nn import Experts, SparseLinear
from prunus.packed import PackedWeight, array_view
from prunus.shrink.groups import BlockGroups, kinds, sites

__all__ = ["OrdinarySave", "save_ordinarily"]

State = dict[str, Any]

# Of configs: projections with biases, those of the MLP, of the attention, of both.
FLAGS: tuple[tuple[str, ...], ...] = (
    (),
    ("mlp_bias",),
    ("attention_bias",),
    ("mlp_bias", "attention_bias"),
    ("bias",),  # Falcon
)
WAY = (
    "prunus.checkpoint.write_pretrained(model, SOURCE_DIR, PATH) writes it as it is and "
    "prunus.load_pretrained(PATH) reads it"
)


def save_ordinarily(model: nn.Module) -> None:
    """From now on `save_pretrained` of the `transformers` models in `model` writes ordinary ones.

    >>> save_ordinarily(nn.Linear(2, 2))  # nothing to do
    """
    for module in model.modules():
        if any(base.__name__ == "PreTrainedModel" for base in type(module).__mro__):
            vars(module)["save_pretrained"] = OrdinarySave(module)


class OrdinarySave:
    """The method `save_pretrained` of one model, which it follows when the model is copied or pickled.

    Takes the arguments of the model's own. Packed layers are written dense: meanwhile there is a dense copy
    of them. Raises ValueError where the model's class has no place for a tensor.

    >>> model = nn.Linear(2, 2)
    >>> OrdinarySave(model).model is model
    True
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)  # no circle: a model goes when its last name does

    @property
    def model(self) -> Any:
        """The model that it saves."""
        return self._model()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model = self.model
        method = type(model).save_pretrained
        bound = inspect.signature(method).bind(model, *args, **kwargs)
        given = bound.arguments.get("state_dict")
        with _written(model, model.state_dict() if given is None else given) as state:
            bound.arguments["state_dict"] = state
            return method(*bound.args, **bound.kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> OrdinarySave:
        return OrdinarySave(memo.get(id(self.model), self.model))

    def __reduce__(self) -> tuple[Any, ...]:
        return OrdinarySave, (self.model,)


@contextmanager
def _written(model: Any, given: Mapping[str, Any]) -> Iterator[State]:
    """The state to write; the config has meanwhile the flags that go with it."""
    state = _dense(model, given)
    for flags in FLAGS:
        if any(getattr(model.config, flag, None) is not False for flag in flags):
            continue
        fresh = _fresh(model, flags)
        if fresh is None:  # a class of its own way to be built: `from_pretrained` could not do it either
            yield state
            return
        expected: State = fresh.state_dict()
        lost = _biases(model, state.keys() - expected.keys())
        if not lost:
            break
    else:
        raise ValueError(f"model: expected tensors that a {type(model).__name__} has, got {lost[0]}: {WAY}")
    _fill(state, fresh)
    for name in _biases(fresh, expected.keys() - state.keys()) if flags else ():
        state[name] = torch.zeros(expected[name].shape, dtype=model.dtype, device="cpu")
    for name, tensor in state.items():
        if name in expected and tuple(tensor.shape) != tuple(expected[name].shape):
            want, got = tuple(expected[name].shape), tuple(tensor.shape)
            raise ValueError(f"model: expected {name} of shape {want} as its config says, got {got}: {WAY}")
    try:
        for flag in flags:
            setattr(model.config, flag, True)
        yield state
    finally:
        for flag in flags:
            setattr(model.config, flag, False)


def _dense(model: nn.Module, given: Mapping[str, Any]) -> State:
    """The state with the weights of packed layers in the place of their bytes."""
    modules = dict(model.named_modules(remove_duplicate=False))
    made: dict[int, Tensor] = {}
    state: State = {}
    for name, tensor in given.items():
        path, _, leaf = name.rpartition(".")
        layer = modules.get(path)
        if not isinstance(layer, SparseLinear) or leaf == "bias":
            state[name] = tensor
            continue
        if leaf != "packed":
            continue  # what the packed weight holds too
        if tensor.data_ptr() not in made:
            made[tensor.data_ptr()] = _weight(layer, tensor)
        state[f"{path}.weight"] = made[tensor.data_ptr()]
    for path, module in modules.items():
        if isinstance(module, Experts):
            _join(state, path, module)
    return state


def _join(state: State, path: str, module: Experts) -> None:
    """The matrices of experts in the 3-D parameters that they were."""
    names: dict[str, list[str]] = {}
    for layer, _, _, _ in module.layers():
        names.setdefault(layer.rpartition(".")[0], []).append(f"{path}.{layer}.weight".lstrip("."))
    for name, of in names.items():
        if all(one in state for one in of):
            state[f"{path}.{name}".lstrip(".")] = torch.stack([state.pop(one) for one in of])


def _weight(layer: SparseLinear, packed: Tensor) -> Tensor:
    if layer.copy_of is not None:
        return layer.copy_of.detach()
    weight = torch.from_numpy(PackedWeight(array_view(packed)).to_dense()).to(layer.weight_dtype)
    return weight.t().contiguous() if layer.conv1d else weight


def _fresh(model: Any, flags: tuple[str, ...]) -> nn.Module | None:
    """What `from_pretrained` would put the tensors into, without memory."""
    config = copy.deepcopy(model.config)
    for flag in flags:
        setattr(config, flag, True)
    try:
        with torch.device("meta"):
            fresh: nn.Module = type(model)(config)
    except Exception:
        return None
    return fresh


def _biases(model: nn.Module, names: set[str]) -> list[str]:
    """Those of the names that are biases of its Linear layers."""
    found = []
    for name in sorted(names):
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path) if leaf == "bias" else None
        if is_linear(module) or isinstance(module, SparseLinear):
            found.append(name)
    return found


def _fill(state: State, fresh: nn.Module) -> None:
    """Zeros in the place of the neurons and heads that `fresh` has and the state lacks."""
    names = {id(module): name for name, module in fresh.named_modules()}
    for stack in stacks(fresh):
        for kind in kinds(stack.family):
            try:
                found = sites(stack, kind)
            except (TypeError, ValueError):
                continue  # nobody can have cut them
            for site in found:
                if site.expert is None:  # the config says the width of experts
                    _fill_site(state, site, names)


def _fill_site(state: State, site: BlockGroups, names: Mapping[int, str]) -> None:
    weight = state.get(f"{names[id(site.out)]}.weight")
    inputs = 0 if is_conv1d(site.out) else 1
    groups = weight.shape[inputs] // site.per if isinstance(weight, Tensor) else site.count
    if groups >= site.count:
        return
    keep = torch.arange(groups, device="cpu")
    _spread(state, f"{names[id(site.out)]}.weight", inputs, site.columns(keep), site.count * site.per)
    for table in site.tables:
        _spread(state, f"{names[id(table)]}.weight", 1, keep, site.count)
    rows: dict[int, list[Tensor]] = {}
    for slot in site.slots:
        rows.setdefault(id(slot.module), []).append(slot.rows(keep))
    for slot in {id(slot.module): slot for slot in site.slots}.values():
        name, module = names[id(slot.module)], slot.module
        outputs = 1 if is_conv1d(module) else 0
        # In the order of the weight, as they were cut: parts may alternate head by head.
        places = torch.cat(rows[id(module)]).sort().values
        size = module.weight.shape[outputs]  # type: ignore[index]
        _spread(state, f"{name}.weight", outputs, places, size)
        _spread(state, f"{name}.bias", 0, places, size)


def _spread(state: State, name: str, axis: int, places: Tensor, size: Any) -> None:
    """The slices of a tensor at `places` of an axis of this size, zeros between them."""
    tensor = state.get(name)
    if tensor is None or tensor.shape[axis] != places.numel():
        return
    shape = list(tensor.shape)
    shape[axis] = size
    state[name] = tensor.new_zeros(shape).index_copy_(axis, places.to(tensor.device), tensor)
