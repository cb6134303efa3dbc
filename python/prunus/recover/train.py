"""The training loop of `Distill`."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from prunus._tools.interrupts import OneInterrupt
from prunus.prune import prune_
from prunus.recover.bar import Bar
from prunus.recover.base import RecoverError
from prunus.recover.best import Best
from prunus.recover.checkpoint import Checkpoint
from prunus.recover.data import count_tokens, first_tensor
from prunus.recover.objective import distance, hidden_distance, split_outputs
from prunus.recover.optimizer import make_optimizer, set_rates
from prunus.recover.options import Options
from prunus.recover.pairs import Taps
from prunus.recover.precision import autocast, faster_in_bfloat16, plain_attention
from prunus.recover.quality import Quality
from prunus.recover.session import Session, trainable
from prunus.recover.states import SHORT, keep_masks, ready_to_train

__all__ = ["Training"]

LOOKS = 10  # measurements on the way
SHARE = 20  # where only time counts, a measurement may take one part in so many of it
CLIP = 1.0
# A model so many times as far from its teacher as the best state was learns too fast: back to that state, and
# on with a part of the rate. Not in the second half, where what is left of the rate heals more than it harms.
TOO_FAR, SLOWER = 2.0, 0.25
# What of a run is one number each.
NUMBERS = ("step", "tokens", "epoch", "position", "cuts", "slowed", "looked", "looked_at", "bfloat16")
# Tokens that a method of `Gradual` looks at, where it looks at inputs.
SAMPLE = 8192


class Training:
    """One run of `Distill`; a context: whatever happens, the model is left whole when it ends.

    step, tokens (real ones), seconds: so far, those before the process was killed included.
    """

    def __init__(self, how: Options, session: Session) -> None:
        self.how, self.session = how, session
        self.step = self.tokens = self.epoch = self.position = self.looked_at = 0
        self.cuts = 0  # of `Gradual`, so far
        self.slowed = 0  # times
        self.earlier, self.looked, self.look_took = 0.0, 0.0, 0.0
        self.stopped = self.resumed = ""
        self.interrupted = False
        self.bfloat16: bool | None = None
        self.losses: list[float] = []
        self._start = time.perf_counter()
        self._stack = ExitStack()

    def __enter__(self) -> Training:
        s, how = self.session, self.how
        self.parameters = trainable(s.model, s.filter_fn)
        if not self.parameters:
            which = "model" if s.filter_fn is None else "filter_fn"
            raise ValueError(
                f"{which}: expected at least one parameter that requires grad, got none to train"
            )
        self._rounds = any(p.dtype in SHORT for p in s.model.parameters())  # when training is over
        with ExitStack() as stack:
            ready = ready_to_train(s.model, s.teacher, self.parameters, how.gradient_checkpointing)
            stack.enter_context(ready)
            self.mine = Taps(s.model, [pair.student for pair in s.pairs])
            self.theirs = Taps(s.teacher, [pair.target for pair in s.pairs])
            stack.enter_context(self.mine.attached())
            stack.enter_context(self.theirs.attached())
            self.optimizer = make_optimizer(self.parameters, how.learning_rate)
            self.keeper = stack.enter_context(keep_masks(s.model, self.optimizer))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def seconds(self) -> float:
        """Spent on this run."""
        return self.earlier + time.perf_counter() - self._start

    @property
    def fraction(self) -> float:
        """Of the budget that is used up."""
        parts = [0.0]
        if self.how.steps is not None:
            parts.append(self.step / self.how.steps)
        if self.how.seconds is not None:
            parts.append(self.seconds / self.how.seconds)
        return max(parts)

    def run(self) -> dict[str, Any]:
        """Train until the budget is used up; afterwards the model holds the best state."""
        self.best, self.session.known = Best(self.parameters, self.session.present()), None
        self.file = Checkpoint(self.how.checkpoint, vars(self.how), self.parameters)
        with OneInterrupt() as interrupt:
            try:
                self._go_on(self.file.load())
                self._train_or_stop()
            finally:
                interrupt.hold()
                self.best.restore()
                if not self._rounds:
                    self.session.known = self.best.quality
        return {
            "steps": self.step,
            "tokens": self.tokens,
            "minutes": self.seconds / 60,
            "best_step": self.best.step,
            "precision": "bfloat16" if self.bfloat16 else "float32",
            "note": "; ".join(filter(None, [self.resumed, self.stopped, self._pruned(), self._rate()])),
            "interrupted": self.interrupted,
        }

    def _train_or_stop(self) -> None:
        try:
            self._train()
        except KeyboardInterrupt:
            self.interrupted = True
            self.stopped = f"interrupted at step {self.step}"
            warnings.warn(f"recover_: {self.stopped}; {self._holds()}", UserWarning, stacklevel=5)
        except Exception as error:
            message = f"recover_: stopped at step {self.step} by {error}; {self._holds()}"
            raise RecoverError(message) from error

    def _train(self) -> None:
        batches = self._batches()
        if self.bfloat16 is None:
            self.bfloat16 = self._choose_precision()
        with Bar(str(self.best)) as bar:
            while self.fraction < 1.0:
                self._prune_where_due()
                if not self._take_step(batches):
                    self.stopped = f"the data ran out after step {self.step}"
                    break
                bar.show(self.fraction, str(self.best))
                if self._is_time_to_look():
                    self.look()
            if self.step > self.looked_at:
                self.look()

    def _prune_where_due(self) -> None:
        """The next zeros of `Gradual`. What was best before had fewer: the best is looked for anew."""
        due = self.how.gradual.due() if self.how.gradual is not None else []
        reached = sum(self.fraction >= at for at, _ in due)
        if reached <= self.cuts or self.how.gradual is None:
            return
        s, method = self.session, self.how.gradual.method
        sample = [batch for batch, _, _ in s.sample(SAMPLE, self.how.seed)] if method.needs else None
        given = None if sample is None else s.calibration(sample)
        prune_(s.model, due[reached - 1][1], method, given, s.filter_fn)
        self.cuts = reached
        self._keep_zeros()
        self.best.take(s.quality(), self.step)
        s.add_to_curve("Gradual", self.seconds, self.best.quality, step=self.step, tokens=self.tokens)

    def _keep_zeros(self) -> None:
        """Those that the model has now."""
        if self.keeper is not None:
            self.keeper.remove()
        self.keeper = self._stack.enter_context(keep_masks(self.session.model, self.optimizer))

    def _pruned(self) -> str:
        """How far `Gradual` came."""
        if self.how.gradual is None:
            return ""
        due = self.how.gradual.due()
        short = f", short of {self.how.gradual.pattern}" if self.cuts < len(due) else ""
        told = f"pruned {self.cuts} times, to {due[self.cuts - 1][1]}" if self.cuts else "not pruned"
        return told + short

    def _rate(self) -> str:
        """What became of it."""
        if not self.slowed:
            return ""
        often = "once" if self.slowed == 1 else f"{self.slowed} times"
        return f"went back {often}, to a learning rate of {self.how.learning_rate * SLOWER**self.slowed:.2g}"

    def _take_step(self, batches: Iterator[Any]) -> bool:
        """One step of the optimiser; False when there was no batch left for it."""
        set_rates(self.optimizer, self.fraction)
        loss, seen = 0.0, 0
        for batch in batches:
            part = self._loss(batch) / self.how.accumulate
            part.backward()  # type: ignore[no-untyped-call]
            loss += float(part.detach())
            seen += 1
            if seen == self.how.accumulate:
                break
        if seen == 0:
            return False
        if not math.isfinite(loss):
            raise ValueError(f"a loss of {loss} in step {self.step + 1}, where a finite number was expected")
        torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.losses.append(loss)
        return True

    def _loss(self, batch: Any) -> Tensor:
        """The distance from the teacher on one batch, a scalar with a gradient."""
        s, how = self.session, self.how
        real = s.real(batch)
        self.tokens += count_tokens(batch, real)
        with autocast(s.device, bool(self.bfloat16)):
            with torch.no_grad():
                theirs, goals = self.theirs.run(lambda: s.forward(s.teacher, s.without_labels(batch)))
            with self._attention(batch, real):
                output, states = self.mine.run(lambda: s.forward(s.model, batch))
        loss = distance(split_outputs(output), split_outputs(theirs), real)
        if states:
            loss = loss + hidden_distance(states, goals, real)
        if how.loss is not None:
            loss = loss + how.loss_weight * how.loss(output, batch)
        return loss

    def _attention(self, batch: Any, real: Tensor | None) -> AbstractContextManager[None]:
        """Of what is trained. Checkpointing runs parts of it again outside of this, which must not differ."""
        if self.how.gradient_checkpointing or not self.bfloat16:
            return nullcontext()
        return plain_attention(self.session.device, (first_tensor(batch) if real is None else real).shape)

    def _batches(self) -> Iterator[Any]:
        """Training batches without end, from where the run is; ends when the data cannot be read again."""
        s = self.session
        while True:
            found = False
            for index, batch in enumerate(s.source.epoch(self.how.seed, self.epoch)):
                found = True
                if index < self.position:
                    continue
                self.position = index + 1
                yield s.ready(batch, labels=self.how.loss is not None)
            if not found:
                return
            self.epoch, self.position = self.epoch + 1, 0

    def _choose_precision(self) -> bool:
        if self.how.precision != "auto":
            return self.how.precision == "bfloat16"
        batch = self.session.held_out[0]

        def trial(bfloat16: bool) -> None:
            self.bfloat16 = bfloat16
            self._loss(batch).backward()  # type: ignore[no-untyped-call]
            self.optimizer.zero_grad(set_to_none=True)

        tokens = self.tokens
        chosen = faster_in_bfloat16(trial, self.session.device)
        self.tokens = tokens
        return chosen

    def _is_time_to_look(self) -> bool:
        if self.how.seconds is None:
            assert self.how.steps is not None
            return self.step % max(1, self.how.steps // LOOKS) == 0
        pause = max(self.how.seconds / LOOKS, SHARE * self.look_took)
        return self.seconds - self.looked >= pause

    def look(self) -> None:
        """Measure on the held-out batches, keep the state if it is the best, write the checkpoint."""
        start = time.perf_counter()
        found = self.session.quality()
        self.looked_at = self.step
        if found.score > self.best.quality.score:
            self.best.take(found, self.step)
        elif found.distance > TOO_FAR * self.best.quality.distance and self.fraction < 0.5:
            self._slow_down()
        loss = sum(self.losses) / max(1, len(self.losses))
        more = {"step": self.step, "tokens": self.tokens, "loss": loss}
        self.session.add_to_curve("Distill", self.seconds, found, **more)
        self.losses.clear()
        self.file.save(self._content())
        self.looked, self.look_took = self.seconds, time.perf_counter() - start

    def _slow_down(self) -> None:
        self.best.restore()
        self.optimizer.state.clear()
        for group in self.optimizer.param_groups:
            group["full_rate"] *= SLOWER
        self.slowed += 1

    def _content(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "seconds": self.seconds,
            "numbers": {name: getattr(self, name) for name in NUMBERS},
            "parameters": {name: p.detach() for name, p in self.parameters.items()},
            "best": (self.best.state, self.best.quality.figures, self.best.step),
            "optimizer": self.optimizer.state_dict(),
            "curve": self.session.curve,
        }

    @torch.no_grad()
    def _go_on(self, found: dict[str, Any] | None) -> None:
        """From what `_content` was in the run before; None: there was none."""
        if found is None:
            return
        for name, value in found["numbers"].items():
            setattr(self, name, value)
        for name, parameter in self.parameters.items():
            parameter.copy_(found["parameters"][name])
        state, figures, step = found["best"]
        self.best.put(state, Quality(figures), step)
        self.earlier = found["seconds"]
        self.optimizer.load_state_dict(found["optimizer"])
        if self.cuts:
            self._keep_zeros()
        self.session.curve[:] = found["curve"]
        self.resumed = f"went on at step {self.step}"

    def _holds(self) -> str:
        if self.best.step == 0 and self.cuts == 0:
            return "the model is as it was"
        return f"the model holds the best state so far, {self.best} at step {self.best.step}"
