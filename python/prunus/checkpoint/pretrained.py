"""Directories of `transformers` models: load a dense or a pruned one, write a pruned one."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from prunus._core import FormatError
from prunus._tools.files import creating
from prunus._tools.report import Report
from prunus._tools.running import check_model
from prunus.checkpoint.foreign import forget_compression, read_foreign
from prunus.checkpoint.verb import load, most_elements, save

__all__ = ["CHECKPOINT", "load_pretrained", "weight_bytes", "write_pretrained"]

#: Not model.safetensors: `transformers` would read that and find tensors it does not know.
CHECKPOINT = "prunus.safetensors"
# What makes a directory usable besides its weights: configs, vocabularies, templates, the licence.
KEPT = frozenset({".json", ".txt", ".model", ".jinja", ".tiktoken", ".vocab", ".spm", ".md"})
KEPT_NAMES = ("LICENSE", "LICENCE", "NOTICE")
WEIGHT_INDEX = ".index.json"
#: Says how the directory is opened; the config has the same sentence under "prunus".
NOTE = "PRUNUS.md"
SENTENCE = (
    f"The weights are in {CHECKPOINT}: open this directory with prunus.load_pretrained(DIR). "
    "from_pretrained of transformers finds no weights here; save_pretrained of the loaded model writes what "
    "it opens."
)

Directory = str | os.PathLike[str]


def load_pretrained(path: Directory) -> Any:
    """The `transformers` model in a local directory, in evaluation mode: dense, or pruned by `prunus prune`.

    Pruned weights of other tools come as dense weights with their zeros: compressed-tensors (sparse-bitmask,
    sparse-24-bitmask), and the pairs weight_orig and weight_mask of torch.nn.utils.prune.

    The class is the first of the config's architectures; code in the directory is never run and nothing is
    downloaded. A pruned directory holds config.json and prunus.safetensors; this is the same as
    `prunus.load(AutoModel.from_config(AutoConfig.from_pretrained(path)), path + "/prunus.safetensors")` with
    the right Auto class. Tensors keep the dtype of the files. A dense file without some of the model's
    weights is a UserWarning that names them: they are random.

    Raises ValueError (no such directory, no config.json, no safetensors, an unknown model type), FormatError
    (a damaged file, weights that compressed-tensors quantised), ImportError without transformers.

    >>> import tempfile, transformers
    >>> sizes = dict(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    >>> config = transformers.BertConfig(intermediate_size=8, **sizes)
    >>> folder = tempfile.mkdtemp()
    >>> transformers.BertModel(config).save_pretrained(folder)
    >>> type(load_pretrained(folder)).__name__
    'BertModel'
    """
    folder = _check_folder(path)
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # These are about the directory.
    vars(config).pop("prunus", None)
    compression = forget_compression(vars(config))
    kind = _model_class(config)
    if not (folder / CHECKPOINT).exists():
        return _load_dense(kind, folder, config, compression)
    model = _build(kind, config)
    load(model, folder / CHECKPOINT)
    _read_generation_config(model, folder)
    return model.eval()


def write_pretrained(
    model: nn.Module, source: Directory, out: Directory, reports: Mapping[str, Report] | None = None
) -> None:
    """Write `model` to a new directory, with the config and the tokenizer of the directory it came from.

    `out` appears complete or not at all; a page in it, and its config, say how it is opened. reports: name ->
    report, written as NAME.json. Raises ValueError (no such source), FileExistsError (out is there already),
    what `save` raises.

    >>> import os, tempfile, transformers
    >>> sizes = dict(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    >>> model = transformers.BertModel(transformers.BertConfig(intermediate_size=8, **sizes))
    >>> folder = tempfile.mkdtemp()
    >>> model.save_pretrained(folder)
    >>> write_pretrained(model, folder, folder + "/pruned")
    >>> sorted(os.listdir(folder + "/pruned"))
    ['PRUNUS.md', 'config.json', 'prunus.safetensors']
    """
    check_model(model)
    folder = _check_folder(source)
    with creating(out) as new:
        for file in _companions(folder):
            target = new / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        _complete_config(new / "config.json", model)
        (new / NOTE).write_text(f"# Pruned by prunus\n\n{SENTENCE}\n", encoding="utf-8")
        save(model, new / CHECKPOINT)
        for name, report in (reports or {}).items():
            report.to_json(new / f"{name}.json")


def weight_bytes(path: Directory) -> int:
    """Bytes on disk of the weights in a model directory: its safetensors files, other copies do not count.

    >>> import tempfile
    >>> weight_bytes(tempfile.mkdtemp())
    0
    """
    folder = Path(path)
    if (folder / CHECKPOINT).exists():
        return (folder / CHECKPOINT).stat().st_size
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _check_folder(path: Directory) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing"
        raise ValueError(f"model directory: expected a directory at {os.fspath(path)!r}, got {got}")
    if not (folder / "config.json").exists():
        raise ValueError(f"model directory: expected config.json in {os.fspath(path)!r}, got none")
    if not any(folder.glob("*.safetensors")):
        other = [file.name for file in sorted(folder.glob("*.bin"))[:1]]
        raise ValueError(
            f"model directory: expected safetensors files in {os.fspath(path)!r}, "
            f"got {other[0] if other else 'none'}"
        )
    return folder


def _model_class(config: Any) -> Any:
    """The config's own class, looked up among those of transformers; AutoModel where it names none."""
    import transformers

    for name in getattr(config, "architectures", None) or ():
        kind = getattr(transformers, name, None) if isinstance(name, str) else None
        if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
            return kind
    return transformers.AutoModel


def _build(kind: Any, config: Any) -> Any:
    with _no_random_numbers():
        return kind.from_config(config) if kind.__name__ == "AutoModel" else kind(config)


def _read_generation_config(model: Any, folder: Path) -> None:
    if (folder / "generation_config.json").exists() and hasattr(model, "generation_config"):
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)


def _load_dense(kind: Any, folder: Path, config: Any, compression: Mapping[str, Any]) -> Any:
    import torch
    import transformers
    from safetensors import SafetensorError

    def most() -> int:
        with torch.device("meta"):
            return most_elements(_build(kind, config))

    dtype = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    options = {"use_safetensors": True, "output_loading_info": True, dtype: "auto"}
    state = read_foreign(folder, compression, most)
    if state is not None:
        try:
            model, found = kind.from_pretrained(None, config=config, state_dict=state, **options)
        except RuntimeError as error:  # shapes that are not the config's
            raise FormatError(f"model directory: expected the weights of its config, got {error}") from None
        _read_generation_config(model, folder)
    else:
        options |= {"local_files_only": True, "trust_remote_code": False}
        try:
            model, found = kind.from_pretrained(folder, **options)
        except SafetensorError as error:
            raise FormatError(
                f"model directory: expected complete safetensors files in {os.fspath(folder)!r}, got {error}"
            ) from None
    missing = sorted(found["missing_keys"])
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if missing[3:] else "")
        warnings.warn(
            f"{folder}: {len(missing)} weights are not in the files and random now: {some}",
            UserWarning,
            stacklevel=3,
        )
    return model.eval()


@contextmanager
def _no_random_numbers() -> Iterator[None]:
    """A model that gets its weights next need not draw them first."""
    name = "initialization" if importlib.util.find_spec("transformers.initialization") else "modeling_utils"
    with importlib.import_module(f"transformers.{name}").no_init_weights():
        yield


def _companions(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts) or not file.is_file():
            continue
        wanted = file.suffix in KEPT or file.name.startswith(KEPT_NAMES)
        if wanted and not file.name.endswith(WEIGHT_INDEX):
            yield file


def _complete_config(config: Path, model: nn.Module) -> None:
    """The config names the dtype of the weights, which may have been cast, and how they are opened."""
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    values = json.loads(config.read_text(encoding="utf-8"))
    forget_compression(values)
    keys = [key for key in ("dtype", "torch_dtype") if values.get(key) not in (None, dtype)]
    values |= {**dict.fromkeys(keys, dtype), "prunus": SENTENCE}
    config.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
