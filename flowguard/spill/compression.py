"""Whether packing pays: measured on what is written anyway.

Arrow packs with lz4 at about the speed of a fast disk. So where writing is slower than that,
fewer bytes are written sooner; where it is faster, packing only costs. While memory takes what
is written, nothing is slow; the disk shows once the system makes writers wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from flowguard.spill.payload import Compression
from flowguard.spill.quota import SpillState
from flowguard.units import MIB, SECOND

__all__ = ["CompressionChoice", "CompressionOption"]

CompressionOption = Literal["none", "lz4", "zstd", "auto"]

#: Decide after so much was written, so that one slow write decides nothing.
WINDOW_BYTES: Final = 64 * MIB

#: lz4 packs 0.5 to 1 GB/s on one core.
SLOW_BYTES_PER_S: Final = 500 * 1000**2
FAST_BYTES_PER_S: Final = 1000 * 1000**2

#: What stays larger than this is not packed again for so many windows.
POOR_RATIO: Final = 0.9
POOR_WINDOWS: Final = 16


@dataclass(slots=True)
class CompressionChoice:
    """Chooses how the next frame of a lane is packed.

    Args:
        option: `auto` measures; the others are what they say.
    """

    option: CompressionOption = "none"
    _packing: bool = False
    _packed: bool = False  # something in this window was
    _rest_windows: int = 0
    _stored_bytes: int = 0
    _raw_bytes: int = 0
    _took_ns: int = field(default=0, repr=False)

    def choose(self, state: SpillState) -> Compression:
        """Return how to pack; near its quota a lane packs tightly."""
        if self.option != "auto":
            return self.option
        if state >= SpillState.SOFT and not self._rest_windows:
            return "zstd"
        return "lz4" if self._packing else "none"

    def wrote(
        self, compression: Compression, *, stored_bytes: int, raw_bytes: int, took_ns: int
    ) -> None:
        """Take in how long it took to write a frame, without packing it."""
        self._packed |= compression != "none"
        self._stored_bytes += stored_bytes
        self._raw_bytes += raw_bytes
        self._took_ns += took_ns
        if self._stored_bytes >= WINDOW_BYTES:
            self._decide()
            self._stored_bytes = self._raw_bytes = self._took_ns = 0
            self._packed = False

    def _decide(self) -> None:
        rate = self._stored_bytes * SECOND / max(1, self._took_ns)
        if self._rest_windows:
            self._rest_windows -= 1
            return
        if self._packed and self._stored_bytes > POOR_RATIO * self._raw_bytes:
            self._packing, self._rest_windows = False, POOR_WINDOWS
        elif rate < SLOW_BYTES_PER_S:
            self._packing = True
        elif rate > FAST_BYTES_PER_S:
            self._packing = False
