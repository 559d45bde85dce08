"""Errors for names that do not exist, which name the nearest one that does."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from flowguard.errors import ConfigError

__all__ = ["is_typo", "nearest", "reject_unknown"]

#: A name that is longer or shorter by more than this is another name.
TYPO_LETTERS = 2


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like this one, or None if none is like it."""
    found = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def is_typo(name: str, known: Iterable[str]) -> bool:
    """Tell whether a name is a known one but for a letter or two."""
    found = get_close_matches(name, list(known), n=1, cutoff=0.8)
    return bool(found) and found[0] != name and abs(len(found[0]) - len(name)) <= TYPO_LETTERS


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
        if name in known:
            continue
        if name in later:
            raise ConfigError(f"{owner}: {name} is not available in this version of flowguard")
        like = nearest(name, known)
        hint = f"did you mean {like}?" if like else f"known are {', '.join(sorted(known))}"
        raise ConfigError(f"{owner} has no option {name!r}; {hint}")
