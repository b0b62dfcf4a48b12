"""From a batch to a step: its gradient, added up part by part, and AdamW, which takes none that is not finite.

Gradients are the mean over the whole batch, also where the ranks' shares or the parts differ in size. Knows networks
and numbers; where rows come from and how many steps there are is not its business.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from cluster.config import Train
from jobs.pace import Stopwatch
from jobs.precision import autocast_dtype
from jobs.schedule import Rates

SECOND_MOMENT = 0.99  # AdamW's second beta; trainings of a few hundred steps cannot wait for 0.999

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # logits float32, targets -> their mean loss
Agree = Callable[[bool], bool]  # whether all ranks say yes; a collective


@dataclass(frozen=True)
class Share:
    """Which part of the global batch a rank computes."""

    num_rows: int  # of the global batch
    world: int

    def weight(self, num_mine: int) -> float:
        """By which a mean over `num_mine` rows counts, so that the mean over all ranks is that over all rows."""
        return num_mine * self.world / self.num_rows


@dataclass(frozen=True)
class Fault:
    """What was not finite, `loss` or `gradient`, and in which step."""

    what: str
    step: int


@dataclass(frozen=True)
class Taken:
    """A step whose gradient may still be on its way from the GPU."""

    number: int
    norm: torch.Tensor
    loss: torch.Tensor


class Optimiser:
    """AdamW of one rank, with the scale of float16 gradients.

    `model` is what a forward pass goes through: the network, or the network in its DDP wrapper. `agree` is called on
    all ranks or on none, because all of them have the same gradient.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        groups: list[dict[str, Any]],
        recipe: Train,
        device: torch.device,
        loss: Loss,
        agree: Agree,
    ) -> None:
        """`groups` are those of `Task.parameter_groups`: each goes by the schedule, up to a peak of its own."""
        self._model, self._recipe, self._device, self._loss, self._agree = model, recipe, device, loss, agree
        self._dtype = autocast_dtype(recipe.precision, device)
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.adamw = torch.optim.AdamW(groups, fused=True)
        self._scales = [group["lr"] / recipe.learning_rate for group in groups]
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._dtype is torch.float16)
        self._before: Taken | None = None
        self._own_gradient_at: float | None = None
        if hasattr(model, "no_sync"):
            for parameter in self._parameters:
                parameter.register_post_accumulate_grad_hook(self._look_at_the_clock)  # type: ignore[no-untyped-call]

    def learn(self, rows: torch.Tensor, targets: torch.Tensor, share: Share, watch: Stopwatch) -> torch.Tensor:
        """Put the batch's mean gradient into the weights' `grad`; returns the loss x rows of this rank, float64 [].

        The ranks meet once, in the last of `train.accumulate` parts.
        """
        self.adamw.zero_grad(set_to_none=True)
        size = -(-len(rows) // self._recipe.accumulate)
        parts = list(zip(torch.split(rows, size), torch.split(targets, size), strict=True))
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for number, (part, truth) in enumerate(parts, start=1):
            is_last = number == len(parts)
            with contextlib.nullcontext() if is_last else self._alone():
                with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
                    logits = self._model(part)
                loss = self._loss(logits.float(), truth)
                watch.lap("forward")
                weight = share.weight(len(part))
                self._backward(loss if weight == 1.0 else loss * weight)
            self._lap(watch, synced=is_last)
            total += loss.detach() * len(part)
        return total

    def step(self, number: int, loss: torch.Tensor, rates: Rates) -> Fault | None:
        """Change the weights, unless something is not finite.

        On a CPU a gradient that is not finite changes nothing. A GPU is asked about the step before, since its newest
        answer would have to be waited for: one step may have been taken with it, and the weights must not be kept.
        """
        self._scaler.unscale_(self.adamw)
        taken = Taken(number, self._norm(), loss)
        known = self._known(taken)
        if known is not None and (fault := self._fault(known)):
            return fault
        for group, scale in zip(self.adamw.param_groups, self._scales, strict=True):
            betas = rates.momentum, SECOND_MOMENT
            group.update(lr=scale * rates.learning_rate, betas=betas, weight_decay=self._recipe.weight_decay)
        self._scaler.step(self.adamw)
        self._scaler.update()
        return None

    def settle(self) -> Fault | None:
        """What was wrong with the newest step: to be asked before weights are kept."""
        before, self._before = self._before, None
        return self._fault(before) if before is not None else None

    def state_dict(self) -> dict[str, Any]:
        return {"adamw": self.adamw.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Rates and decay are those of the recipe here, whatever the state's were."""
        self.adamw.load_state_dict(state["adamw"])
        if self._scaler.is_enabled() and state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        no_sync: Callable[[], contextlib.AbstractContextManager[None]]
        no_sync = getattr(self._model, "no_sync", contextlib.nullcontext)
        return no_sync()

    def _backward(self, loss: torch.Tensor) -> None:
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def _lap(self, watch: Stopwatch, *, synced: bool) -> None:
        """What passes between the last of this rank's own gradients and the end is waiting for the others."""
        if synced and self._own_gradient_at is not None:
            watch.lap("backward", at=self._own_gradient_at)
            watch.lap("sync")
        else:
            watch.lap("backward")

    def _look_at_the_clock(self, _: torch.Tensor) -> None:
        self._own_gradient_at = Stopwatch.now()

    def _norm(self) -> torch.Tensor:
        """Of the whole gradient, float32 [], before it is clipped."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = get_total_norm(gradients)
        if self._recipe.clip_norm is not None:
            clip_grads_with_norm_(self._parameters, self._recipe.clip_norm, norm)
        return norm

    def _known(self, taken: Taken) -> Taken | None:
        if self._device.type == "cpu":
            return taken
        before, self._before = self._before, taken
        return before

    def _fault(self, taken: Taken) -> Fault | None:
        """The gradient is the same on all ranks, so that they all come here or none; their losses differ."""
        if math.isfinite(taken.norm.item()):
            return None
        if not self._agree(math.isfinite(taken.loss.item())):
            return Fault("loss", taken.number)
        # A float16 gradient that overflows is no fault: the scaler leaves the step out and lowers the scale.
        if self._scaler.is_enabled() and self._scaler.get_scale() >= 1.0:
            return None
        return Fault("gradient", taken.number)
