"""Cosine Power Annealing against the paper's equations in NumPy."""

import json
import math
from decimal import Decimal, localcontext

import keras
import numpy as np
import pytest

from sharpkeras.errors import ConfigError
from sharpkeras.schedule import CosinePowerAnnealing


def rates(schedule, steps):
    return np.array([float(schedule(step)) for step in steps])


def equation_1(low, high, progress):
    """Cosine annealing."""
    return low + 0.5 * (high - low) * (1 + math.cos(math.pi * progress))


def equation_2(low, high, power, progress):
    """Cosine power annealing; its limit at p = 1 is Eq. 1."""
    numerator = power ** (0.5 * (1 + math.cos(math.pi * progress)) + 1) - power
    return low + (high - low) * numerator / (power**2 - power)


def test_power_1_is_equation_1():
    schedule = CosinePowerAnnealing(0.025, 1e-4, 60, power=1)
    expected = [equation_1(1e-4, 0.025, step / 60) for step in range(61)]
    np.testing.assert_allclose(rates(schedule, range(61)), expected, rtol=1e-5)
    near = CosinePowerAnnealing(0.025, 1e-4, 60, power=1.01)
    np.testing.assert_allclose(rates(near, range(61)), expected, rtol=0.02)


@pytest.mark.parametrize("power", (2, 10, 0.5, 1.5))
def test_equation_2(power):
    schedule = CosinePowerAnnealing(0.025, 1e-8, 2000, power=power)
    steps = range(0, 2001, 50)
    expected = [equation_2(1e-8, 0.025, power, step / 2000) for step in steps]
    np.testing.assert_allclose(rates(schedule, steps), expected, rtol=1e-4, atol=1e-9)
    assert np.all(np.diff(rates(schedule, steps)) < 0)


def exact_decay(power, progress):
    """The fraction in Eq. 2 to 50 digits; the number of `power` is the one that a float holds."""
    with localcontext() as context:
        context.prec = 60
        angle, power = Decimal("3.141592653589793238462643383279502884197169399375106") * progress, Decimal(power)
        term, cosine, order = Decimal(1), Decimal(0), 0
        while abs(term) > Decimal(10) ** -55:
            cosine, order = cosine + term, order + 2
            term = -term * angle * angle / (order * (order - 1))
        half = (1 + cosine) / 2
        return float(half if power == 1 else (power ** (half + 1) - power) / (power * power - power))


NEAR_1 = (1, 1 + 1e-12, 1 - 1e-12, 1 + 1e-5, 1 - 1e-5, 1.001, 0.999)
POWERS = (*NEAR_1, 1e-300, 1e-40, 1e-30, 1e-3, 0.009, 0.01, 0.5, 0.51, 1.49, 1.5, 2, 10, 100, 101, 1e6, 1e30, 1e200)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("decay_steps", (100, 10_000_000))
def test_equation_2_to_the_last_figures_of_float32(power, decay_steps):
    """Near p = 1 it was off by 0.7 % of the peak, at 1e30 it was 0, at 1e-300 and 1e200 no number."""
    schedule = CosinePowerAnnealing(1.0, 0.0, decay_steps, power=power)
    parts = (0, 7, 33, 50, 67, 99, 100)
    found = rates(schedule, [part * decay_steps // 100 for part in parts])
    exact = [exact_decay(power, Decimal(part) / 100) for part in parts]
    rounding = 2.0**-24 * (6 + abs(math.log(power)))  # of the cosine, and of the exponent in which it stands
    np.testing.assert_allclose(found, exact, rtol=0, atol=rounding)


def test_the_worked_example():
    assert float(CosinePowerAnnealing(0.025, 0.0, 100, power=2)(50)) == pytest.approx(0.010355, abs=1e-6)


def test_a_higher_power_decays_faster_at_first():
    middle = [float(CosinePowerAnnealing(1.0, 0.0, 100, power=power)(50)) for power in (1, 2, 10)]
    assert middle[0] > middle[1] > middle[2]


def test_warm_up_is_linear_and_ends_at_the_maximum():
    schedule = CosinePowerAnnealing(0.5, 0.1, 20, power=2, warmup_steps=4)
    np.testing.assert_allclose(rates(schedule, range(5)), [0.2, 0.3, 0.4, 0.5, 0.5], rtol=1e-6)
    plain = CosinePowerAnnealing(0.5, 0.1, 20, power=2)
    np.testing.assert_allclose(rates(schedule, range(4, 25)), rates(plain, range(21)), rtol=1e-6)


def test_warm_restarts_are_lower_and_longer():
    arguments = dict(power=2, warmup_steps=3, num_cycles=3, restart_decay=0.5, period_multiplier=2)
    schedule = CosinePowerAnnealing(0.8, 0.0, 10, **arguments)
    starts, periods = (3, 13, 33), (10, 20, 40)
    for start, period, peak in zip(starts, periods, (0.8, 0.4, 0.2)):
        steps = np.arange(period)
        expected = [equation_2(0.0, peak, 2, step / period) for step in steps]
        np.testing.assert_allclose(rates(schedule, start + steps), expected, rtol=1e-4, atol=1e-6)
    assert rates(schedule, (73, 74, 10_000)).tolist() == [0.0, 0.0, 0.0]  # and then it stays


def test_an_array_of_steps_is_each_of_them():
    """The cycles were counted over all steps together."""
    schedule = CosinePowerAnnealing(0.8, 0.0, 10, power=2, warmup_steps=3, num_cycles=3, period_multiplier=2)
    for steps in ([4, 20], range(80)):
        np.testing.assert_allclose(schedule(np.array(steps)), rates(schedule, steps), rtol=0, atol=2e-7)  # 0.8, rounded


def test_the_last_third_of_a_cycle_stays_at_the_minimum():
    assert float(CosinePowerAnnealing(0.025, 1e-3, 10)(10)) == pytest.approx(1e-3)
    assert float(CosinePowerAnnealing(0.025, 1e-3, 10)(99)) == pytest.approx(1e-3)


def test_it_comes_back_from_its_config():
    arguments = dict(power=3, warmup_steps=2, num_cycles=2, restart_decay=0.9, period_multiplier=1.5, name="mine")
    schedule = CosinePowerAnnealing(0.1, 1e-3, 8, **arguments)
    serialized = json.loads(json.dumps(keras.optimizers.schedules.serialize(schedule)))
    again = keras.optimizers.schedules.deserialize(serialized)
    assert type(again) is CosinePowerAnnealing and again.get_config() == schedule.get_config()
    np.testing.assert_array_equal(rates(schedule, range(25)), rates(again, range(25)))


def test_an_optimizer_follows_it():
    schedule = CosinePowerAnnealing(0.5, 0.1, 4, warmup_steps=2)
    variable, optimizer = keras.Variable(np.zeros(1)), keras.optimizers.SGD(schedule)
    steps = []
    for _ in range(7):
        before = variable.numpy()
        optimizer.apply([keras.ops.ones(1)], [variable])
        steps.append(float((before - variable.numpy())[0]))
    np.testing.assert_allclose(steps, rates(schedule, range(7)), rtol=1e-4)


@pytest.mark.parametrize(
    "changes, where",
    (
        ({"power": 0}, "power"),
        ({"power": -2.0}, "power"),
        ({"power": math.nan}, "power"),
        ({"power": math.inf}, "power"),
        ({"decay_steps": 0}, "decay_steps"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"num_cycles": 0}, "num_cycles"),
        ({"restart_decay": 0.0}, "restart_decay"),
        ({"restart_decay": 1.5}, "restart_decay"),
        ({"period_multiplier": 0}, "period_multiplier"),
        ({"min_learning_rate": 0.2}, "min_learning_rate"),
        ({"min_learning_rate": -1e-9}, "min_learning_rate"),
        ({"max_learning_rate": math.nan}, "min_learning_rate"),
    ),
)
def test_what_is_out_of_range_is_refused(changes, where):
    arguments = {"max_learning_rate": 0.1, "min_learning_rate": 0.0, "decay_steps": 10, **changes}
    with pytest.raises(ConfigError) as caught:
        CosinePowerAnnealing(**arguments)
    assert caught.value.where == where and caught.value.exit_code == 3 and caught.value.allowed
