"""Which records of a failed batch its agent tries next, to find the one that fails.

    │ done │ suspects: one of these fails │ untried │
             first half: tried next

The agent does it in one go, before it gives its seat back: to hand out each half as a batch of
its own costs many times what most agents need for it. What takes longer is left to whoever
handed the batch out (`failing.py`).
"""

from __future__ import annotations

from flowguard.facts import Found

__all__ = ["Narrowing"]


class Narrowing:
    """The search in one batch, all of whose records failed together.

    Args:
        count: How many records it has, >= 2.
        error: What the agent raised.

    Attributes:
        done: So many of its first records are done.
        suspects: Among so many behind them is one that fails; 0: nothing is known of them.
        error: What was raised last for these; None if nothing was.
        alone: The first record behind those that are done has failed by itself.
    """

    def __init__(self, count: int, error: BaseException) -> None:
        self.done = 0
        self.suspects = count
        self.error: BaseException | None = error
        self.alone = False
        self._count = count
        self._tried = 0  # how many are being tried

    @property
    def over(self) -> bool:
        """Tell whether there is nothing more to try: a record failed, or all are done."""
        return self.alone or self.done == self._count

    def next(self) -> tuple[int, int]:
        """Return what is tried now: the first record and how many."""
        if not self.suspects:
            self._tried = self._count - self.done
        else:
            self._tried = max(1, self.suspects // 2)
        return self.done, self._tried

    def succeeded(self) -> None:
        """Note that what was tried is done."""
        self.done += self._tried
        self.suspects = max(0, self.suspects - self._tried)
        if not self.suspects:
            self.error = None

    def failed(self, error: BaseException) -> None:
        """Note that what was tried failed."""
        self.suspects, self.error = self._tried, error
        self.alone = self._tried == 1

    def give_up(self, error: BaseException) -> None:
        """Note that nothing can be told of any record that is not done."""
        self.suspects, self.error = self._count - self.done, error

    def found(self, dead_letters: frozenset[int]) -> Found:
        """Return what is known now.

        Args:
            dead_letters: Rows that are done by being rejected.
        """
        return Found(self.done, self.suspects, dead_letters)
