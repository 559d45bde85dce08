"""Errors for names that do not exist."""

from __future__ import annotations

import pytest

from flowguard.errors import ConfigError
from flowguard.suggest import nearest, reject_unknown


def test_the_nearest_name_is_found():
    assert nearest("tagret", ["target", "reserve", "weight"]) == "target"


def test_a_name_like_no_other_has_no_nearest():
    assert nearest("xyzzy", ["target", "reserve"]) is None


def test_known_names_pass():
    reject_unknown(["target"], known=("target", "reserve"), owner="Lane('a')")


def test_an_unknown_name_is_an_error_with_the_one_that_was_meant():
    with pytest.raises(ConfigError, match=r"Lane\('a'\) has no option 'tagret'; did you mean"):
        reject_unknown(["tagret"], known=("target", "reserve"), owner="Lane('a')")


def test_a_name_like_no_other_is_an_error_with_all_there_are():
    with pytest.raises(ConfigError, match="known are reserve, target"):
        reject_unknown(["xyzzy"], known=("target", "reserve"), owner="Lane('a')")


def test_a_name_of_a_later_version_says_so():
    with pytest.raises(ConfigError, match="rate is not available in this version"):
        reject_unknown(["rate"], known=("target",), later=("rate",), owner="Lane('a')")
