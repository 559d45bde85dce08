"""Errors for names that do not exist, which name the nearest one that does."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from flowguard.errors import ConfigError

__all__ = ["nearest", "reject_unknown"]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like this one, or None if none is like it."""
    found = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def reject_unknown(
    options: Iterable[str],
    *,
    known: Collection[str],
    owner: str,
    later: Collection[str] = (),
) -> None:
    """Raise for the first option that is not known.

    Raises:
        ConfigError: It names the option, and the nearest known one.
    """
    for name in options:
        if name in later:
            raise ConfigError(f"{owner}: {name} is not available in this version of flowguard")
        like = nearest(name, known)
        hint = f"did you mean {like}?" if like else f"known are {', '.join(sorted(known))}"
        raise ConfigError(f"{owner} has no option {name!r}; {hint}")
