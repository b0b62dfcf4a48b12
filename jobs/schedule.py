"""Learning rate and momentum of every step, as a pure function of how many steps are done.

There is no state to save: a training that goes on in the middle, on other workers or with other settings, asks for the
same step and gets the same answer. Knows settings and counts, neither networks nor optimisers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cluster.config import Train

WARMUP = {"one_cycle": 0.25, "cosine": 0.05, "constant": 0.05}  # share of all steps, where the experiment says nothing
MOMENTUM = 0.9
# L. N. Smith, N. Topin, *Super-Convergence*, 2018, with the bounds that PyTorch's OneCycleLR takes by default.
START_DIVISOR, END_DIVISOR = 25.0, 1e4
MOMENTUM_AT_PEAK, MOMENTUM_AT_ENDS = 0.85, 0.95


@dataclass(frozen=True)
class Rates:
    """What the optimiser uses for one step."""

    learning_rate: float
    momentum: float  # AdamW's first beta


def rates(recipe: Train, step: int, num_steps: int) -> Rates:
    """For the step after `step` others, of `num_steps` in the whole training.

    `one_cycle` rises to `train.learning_rate` and falls to next to nothing, both by half a cosine, while momentum does
    the opposite. `cosine` rises in a line and falls by half a cosine to zero; `constant` rises in a line and stays.
    """
    warmup = WARMUP[recipe.schedule] if recipe.warmup is None else recipe.warmup
    if recipe.schedule == "one_cycle":
        return _one_cycle(recipe.learning_rate, warmup, step, num_steps)
    num_rising = warmup * num_steps
    if step < num_rising:
        return Rates(recipe.learning_rate * (step + 1) / (math.floor(num_rising) + 1), MOMENTUM)
    if recipe.schedule == "constant":
        return Rates(recipe.learning_rate, MOMENTUM)
    done = (step - num_rising) / max(1.0, num_steps - num_rising)
    return Rates(_between(recipe.learning_rate, 0.0, done), MOMENTUM)


def _one_cycle(peak: float, warmup: float, step: int, num_steps: int) -> Rates:
    start, end = peak / START_DIVISOR, peak / START_DIVISOR / END_DIVISOR
    top = warmup * (num_steps + 1) - 1  # the step at the peak; the end would be the step after the last
    if step <= top:
        done = step / top if top > 0 else 1.0
        return Rates(_between(start, peak, done), _between(MOMENTUM_AT_ENDS, MOMENTUM_AT_PEAK, done))
    top = max(top, 0.0)
    done = min(1.0, (step - top) / max(1.0, num_steps - top))
    return Rates(_between(peak, end, done), _between(MOMENTUM_AT_PEAK, MOMENTUM_AT_ENDS, done))


def _between(start: float, end: float, done: float) -> float:
    """From `start` to `end` by half a cosine; `done` runs from 0 to 1."""
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * done))
