"""How many batches of an agent may be under way, as people write it."""

from __future__ import annotations

import pytest

import flowguard as fg
from flowguard.control.limit import Step
from flowguard.control.limits import ALGORITHMS
from flowguard.dispatch.concurrency import ALGORITHM_NAMES, check_concurrency
from flowguard.errors import ConfigError


class Mine:
    def update(self, window):
        return Step(window.limit, "hold", "")


def test_adaptive_has_the_defaults_of_the_contract():
    adaptive = fg.Adaptive()

    assert (adaptive.min, adaptive.max, adaptive.algorithm) == (1, 64, "goodput")


def test_every_algorithm_that_has_a_name_exists():
    assert tuple(ALGORITHMS) == ALGORITHM_NAMES


def test_an_object_with_update_is_an_algorithm():
    mine = Mine()

    assert fg.Adaptive(algorithm=mine).algorithm is mine


@pytest.mark.parametrize(
    "options", [{"min": 0}, {"max": 0}, {"min": 1.5}, {"max": True}, {"min": "2"}]
)
def test_what_is_no_number_of_batches_is_refused(options):
    with pytest.raises(ConfigError, match=r"Adaptive\.(min|max)=.* is no number of batches"):
        fg.Adaptive(**options)


def test_more_instances_than_anyone_means_are_refused():
    with pytest.raises(ConfigError, match="more than 10000"):
        fg.Adaptive(max=1_000_000)


def test_min_above_max_is_refused():
    with pytest.raises(ConfigError, match="swap them"):
        fg.Adaptive(min=8, max=4)


def test_a_misspelt_algorithm_is_refused_and_the_nearest_is_named():
    with pytest.raises(ConfigError, match="did you mean 'gradient'"):
        fg.Adaptive(algorithm="gradiant")


@pytest.mark.parametrize("algorithm", [Mine, None, 3, object()])
def test_an_algorithm_without_update_is_refused(algorithm):
    with pytest.raises(ConfigError, match=r"has no update\(window\)"):
        fg.Adaptive(algorithm=algorithm)


def test_an_unknown_option_names_the_known_one():
    with pytest.raises(ConfigError, match="did you mean max"):
        fg.Adaptive(maximum=4)


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "4", None])
def test_concurrency_is_a_number_or_adaptive(value):
    check_concurrency(3)
    check_concurrency(fg.Adaptive())

    with pytest.raises(ConfigError, match=r"use 1 or more, or fg\.Adaptive"):
        check_concurrency(value)
