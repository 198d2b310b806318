"""Cosine Power Annealing (Eq. 2, Fig. 4 and 5), with warm-up and decaying warm restarts."""

import math
from typing import Any

import keras
from keras import ops

from sharpkeras.errors import ConfigError


@keras.saving.register_keras_serializable("sharpkeras")
class CosinePowerAnnealing(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate per step: Eq. 2, and Eq. 1 (cosine annealing) at power 1.

    Worked example: from 0.025 to 0 over 100 steps at power 2, step 50 gives 0.025·(2^1.5 - 2)/(4 - 2) = 0.010355.

    >>> schedule = CosinePowerAnnealing(0.025, 0.0, decay_steps=100, power=2.0)
    >>> [round(float(schedule(step)), 6) for step in (0, 50, 100)]
    [0.025, 0.010355, 0.0]

    Args:
        max_learning_rate: η_max of the first cycle.
        min_learning_rate: η_min.
        decay_steps: T_0, steps from η_max to η_min in the first cycle, after the warm-up.
        power: p; 1 is cosine annealing, larger decays faster at first and slower in the last third.
        warmup_steps: linear from η_min up to η_max before the first cycle.
        num_cycles: 1 for no restart.
        restart_decay: η_max of a cycle over that of the one before.
        period_multiplier: T of a cycle over that of the one before.

    After the last cycle the rate stays at η_min.

    Raises:
        ConfigError: for a power, a period or a rate outside its range.
    """

    def __init__(
        self,
        max_learning_rate: float,
        min_learning_rate: float,
        decay_steps: float,
        power: float = 2.0,
        warmup_steps: float = 0,
        num_cycles: int = 1,
        restart_decay: float = 1.0,
        period_multiplier: float = 1.0,
        name: str = "cosine_power_annealing",
    ) -> None:
        super().__init__()
        _check("power", power, power > 0, "a number above 0")
        _check("decay_steps", decay_steps, decay_steps >= 1, "at least 1")
        _check("warmup_steps", warmup_steps, warmup_steps >= 0, "0 or more")
        _check("num_cycles", num_cycles, num_cycles >= 1, "at least 1")
        _check("restart_decay", restart_decay, 0 < restart_decay <= 1, "above 0, up to 1")
        _check("period_multiplier", period_multiplier, period_multiplier > 0, "a number above 0")
        _check("min_learning_rate", min_learning_rate, 0 <= min_learning_rate <= max_learning_rate, "0 to the maximum")
        self.config: dict[str, Any] = dict(max_learning_rate=max_learning_rate, min_learning_rate=min_learning_rate)
        self.config |= dict(decay_steps=decay_steps, power=power, warmup_steps=warmup_steps, num_cycles=num_cycles)
        self.config |= dict(restart_decay=restart_decay, period_multiplier=period_multiplier, name=name)
        periods = [decay_steps * period_multiplier**i for i in range(num_cycles)]
        self._periods = periods
        self._starts = [sum(periods[:i]) for i in range(num_cycles)]
        self._peaks = [max_learning_rate * restart_decay**i for i in range(num_cycles)]

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        low, warmup, power = (self.config[k] for k in ("min_learning_rate", "warmup_steps", "power"))
        since = step - warmup
        restarts = ops.convert_to_tensor(self._starts[1:] or [math.inf], "float32")
        cycle = ops.sum(ops.cast(ops.expand_dims(since, -1) >= restarts, "int32"), axis=-1)
        per_cycle = (self._starts, self._periods, self._peaks)
        start, period, peak = (ops.take(ops.convert_to_tensor(values, "float32"), cycle) for values in per_cycle)
        progress = ops.clip((since - start) / period, 0.0, 1.0)  # T_cur / T_i
        cosine = 0.5 * (1.0 + ops.cos(math.pi * progress))  # 1 → 0
        decay = _decay(cosine, power)
        annealed = low + (peak - low) * decay
        rising = low + (self._peaks[0] - low) * (step + 1.0) / max(warmup, 1)
        return ops.where(since < 0, rising, annealed)

    def get_config(self) -> dict[str, Any]:
        return dict(self.config)


def _decay(cosine: Any, power: float) -> Any:
    """(p^(c + 1) - p) / (p² - p), the fraction in Eq. 2; its limit at p = 1 is c.

    As it stands it is a difference of almost equal numbers near p = 1, overflows at a large p, and is 0 / 0 at a tiny
    one. It equals (p^c - 1) / (p - 1), and that is p^(c - 1)·(1 - p^-c) / (1 - 1/p). Elsewhere it is as exact as those,
    and it gives the bits of the trainings that were made so.
    """
    logarithm = math.log(power)
    if power == 1:
        return cosine
    if 0.5 < power < 1.5 or power < 0.01:
        return ops.expm1(cosine * logarithm) / math.expm1(logarithm)
    if power > 100:
        return ops.exp((cosine - 1.0) * logarithm) * ops.expm1(-cosine * logarithm) / math.expm1(-logarithm)
    return (ops.power(power, cosine + 1.0) - power) / (power**2 - power)


def _check(name: str, value: float, good: bool, allowed: str) -> None:
    if not good or not math.isfinite(value):
        raise ConfigError("learning rate schedule out of range", where=name, seen=value, allowed=allowed)
