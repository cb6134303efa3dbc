"""llama.cpp with the weights of SmolLM2, as `bench language` wants a contender. Where llama-cpp-python is
installed: PyPI has its sources only, so that it is never asked for."""

import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

INSTALLED = importlib.util.find_spec("llama_cpp") is not None
Q8_0 = 7  # LLAMA_FTYPE_MOSTLY_Q8_0
_silence: list[Any] = []  # what llama.cpp calls with its lines, until the process ends


class LlamaCpp:
    """A GGUF file in llama.cpp; the prompt's first tokens are the cache that one more is decoded behind."""

    def __init__(self, name: str, file: Path, ids: Tensor, before: int, threads: int) -> None:
        self.name, self.file, self.threads = name, file, threads
        self.ids, self.before = ids[0].tolist(), before
        self.model = self._open(logits_all=False)

    def _open(self, logits_all: bool) -> Any:
        from llama_cpp import Llama

        length = len(self.ids)
        return Llama(
            str(self.file),
            n_ctx=length,
            n_batch=length,
            n_ubatch=length,
            n_threads=self.threads,
            n_threads_batch=self.threads,
            logits_all=logits_all,
            verbose=False,
        )

    def decode(self) -> None:
        """One token; what the cache has behind the first ones goes."""
        self.model.n_tokens = self.before
        self.model.eval(self.ids[self.before : self.before + 1])

    def prompt(self) -> None:
        """All tokens at once; logits of the last one."""
        self.model.reset()
        self.model.eval(self.ids)

    def quality(self, subject: Any) -> dict[str, float]:
        """On the held-out windows of the subject, as it measures its own models."""
        model = self._open(logits_all=True)

        def logits(ids: Tensor) -> Tensor:
            model.reset()
            model.eval(ids[0].tolist())
            return torch.tensor(model.scores[: ids.shape[1]])[None]

        return cast("dict[str, float]", subject.quality_of(logits))

    @property
    def megabytes(self) -> float:
        """Of the file."""
        return self.file.stat().st_size / 1e6


@contextmanager
def as_int8(file: Path) -> Iterator[Path]:
    """The weights of a GGUF file as Q8_0: eight bits, a scale for every 32."""
    import llama_cpp

    if not _silence:  # it writes a line for every tensor
        _silence.append(llama_cpp.llama_log_callback(lambda level, text, data: None))
        llama_cpp.llama_log_set(_silence[0], None)
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / "q8_0.gguf"
        how = llama_cpp.llama_model_quantize_default_params()
        how.ftype, how.allow_requantize = Q8_0, True
        if llama_cpp.llama_model_quantize(str(file).encode(), str(to).encode(), how) != 0:
            raise RuntimeError(f"llama.cpp could not write {file.name} as Q8_0")
        yield to
