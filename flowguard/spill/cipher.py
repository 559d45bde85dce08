"""Encryption at rest: AES-256-GCM, a key for each segment, nothing of a record in the clear.

    key of the provider ─wraps─▶ key of a segment ─encrypts─▶ payloads, and what is hidden
    (KEK, RFC 3394)              (in its header)              in headers: topic and probe

- Order: compress, encrypt, checksum. So `verify` needs no key.
- The nonce of each of the two is made of the frame's number; a segment's key is used for that
  segment alone, and a number never twice.
- What a seal covers besides is the frame's header, with the place it belongs to: a frame
  cannot be moved, and neither its offsets nor its times can be changed.
- Not hidden: sizes, offsets, times, the names of lane, app, group and cluster.
- An ephemeral key is in memory only. When the process is gone so is what it wrote.

Budget: 0.4 ms a MiB with instructions for AES.
Thread-safety: a `SegmentCipher` may be used by the writer and the reader at once.
Source: NIST SP 800-38D; RFC 3394.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import pyarrow as pa

from flowguard.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "TAG_BYTES",
    "EphemeralKey",
    "Key",
    "KeyProvider",
    "NoKey",
    "SegmentCipher",
    "Tampered",
    "new_segment_key",
    "require_library",
    "unwrap_segment_key",
]

KEY_BYTES: Final = 32
TAG_BYTES: Final = 16

#: What is encrypted at a time. Versions of the library differ in whether they keep the
#: interpreter meanwhile; so the event loop waits for half a millisecond at most, and not for a
#: whole frame.
SLICE_BYTES: Final = 1024 * 1024

K = TypeVar("K")

PAYLOAD: Final = 0
HIDDEN: Final = 1


class Tampered(Exception):
    """Bytes are not those that were encrypted with this key at this place."""


class NoKey(Exception):
    """The provider failed; it may not the next time."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the provider.

    Args:
        id: Stands in each segment that it opens; no secret.
        secret: 32 bytes.
    """

    id: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ConfigError(
                f"the key {self.id!r} for spilling has {len(self.secret)} bytes; use {KEY_BYTES}"
            )


class KeyProvider(Protocol):
    """Where keys come from; a new current key is used from the next segment on."""

    def current(self) -> Key:
        """Return the key for what is written now."""
        ...

    def find(self, key_id: str) -> Key | None:
        """Return the key that something was written with, None if it is not known."""
        ...


class EphemeralKey:
    """A key that only this process has: nothing that it wrote can be read after its end.

    Args:
        entropy: Returns so many random bytes.
    """

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._key = Key(f"ephemeral-{entropy(8).hex()}", entropy(KEY_BYTES))

    def current(self) -> Key:
        """Return the key."""
        return self._key

    def find(self, key_id: str) -> Key | None:
        """Return the key if it is this one."""
        return self._key if key_id == self._key.id else None


def require_library() -> None:
    """Make sure that encryption is possible before anything is written.

    Raises:
        ConfigError: The package that does it is not installed.
    """
    _library()


def new_segment_key(
    keys: KeyProvider, entropy: Callable[[int], bytes]
) -> tuple[str, bytes, SegmentCipher]:
    """Return the provider's key id, a new segment's key as its header has it, and its cipher.

    Raises:
        NoKey: The provider failed.
    """
    library = _library()
    key = _asked(keys.current)
    secret = entropy(KEY_BYTES)
    return key.id, library.wrap(key.secret, secret), SegmentCipher(secret, library)


def unwrap_segment_key(keys: KeyProvider, key_id: str, wrapped: bytes) -> SegmentCipher | None:
    """Return the cipher of a segment, None if its key is not known or is another one.

    Raises:
        NoKey: The provider failed.
    """
    library = _library()
    key = _asked(lambda: keys.find(key_id))
    if key is None:
        return None
    try:
        return SegmentCipher(library.unwrap(key.secret, wrapped), library)
    except (library.invalid_unwrap, ValueError):
        return None


def _asked(provider: Callable[[], K]) -> K:
    """Return what a provider says, which is other people's code and may fail in any way."""
    try:
        return provider()
    except Exception as error:
        raise NoKey(f"no key is to be had ({error or type(error).__name__})") from error


class SegmentCipher:
    """Encrypts the frames of one segment."""

    def __init__(self, secret: bytes, library: _Library) -> None:
        self._secret = secret
        self._library = library

    def hide(self, number: int, plain: bytes, bound_to: bytes) -> bytes:
        """Encrypt what is hidden in a frame's header."""
        return bytes(self._encrypt(HIDDEN, number, [plain], len(plain), bound_to).to_pybytes())

    def reveal(self, number: int, sealed: bytes, bound_to: bytes) -> bytes:
        """Return what is hidden in a frame's header.

        Raises:
            Tampered: It is not what was hidden there.
        """
        return bytes(self._decrypt(HIDDEN, number, sealed, bound_to).to_pybytes())

    def encrypt(self, number: int, parts: Sequence[Buffer], size: int, bound_to: bytes) -> Any:
        """Return a payload encrypted, as a buffer that is TAG_BYTES longer.

        Args:
            number: The frame's number; never the same twice.
            parts: The payload, `size` bytes altogether.
            bound_to: What decrypting has to say too.
        """
        return self._encrypt(PAYLOAD, number, parts, size, bound_to)

    def decrypt(self, number: int, sealed: Buffer, bound_to: bytes) -> Any:
        """Return a payload as it was, as a buffer.

        Raises:
            Tampered: It is not what was encrypted there.
        """
        return self._decrypt(PAYLOAD, number, sealed, bound_to)

    def _encrypt(
        self, what: int, number: int, parts: Sequence[Buffer], size: int, bound_to: bytes
    ) -> Any:
        sealed = pa.allocate_buffer(size + TAG_BYTES)
        out = memoryview(sealed).cast("B")
        encryptor = self._library.encryptor(self._secret, _nonce(what, number))
        encryptor.authenticate_additional_data(bound_to)
        done = 0
        for part in parts:
            done += _put_through(encryptor, part, out[done:])
        encryptor.finalize()
        out[size:] = encryptor.tag
        return sealed

    def _decrypt(self, what: int, number: int, sealed: Buffer, bound_to: bytes) -> Any:
        data = memoryview(sealed).cast("B")
        if len(data) < TAG_BYTES:
            raise Tampered("it is too short for a seal")
        size = len(data) - TAG_BYTES
        opened = pa.allocate_buffer(size)
        decryptor = self._library.decryptor(self._secret, _nonce(what, number))
        decryptor.authenticate_additional_data(bound_to)
        _put_through(decryptor, data[:size], memoryview(opened).cast("B"))
        try:
            decryptor.finalize_with_tag(bytes(data[size:]))
        except self._library.invalid_tag as error:
            raise Tampered("its seal does not agree") from error
        return opened


def _nonce(what: int, number: int) -> bytes:
    return number.to_bytes(8, "little") + what.to_bytes(4, "little")


def _put_through(context: Any, part: Buffer, out: memoryview) -> int:
    """Encrypt or decrypt slice by slice; return how many bytes."""
    source = memoryview(part).cast("B")
    for start in range(0, len(source), SLICE_BYTES):
        piece = source[start : start + SLICE_BYTES]
        context.update_into(piece, out[start:])
    return len(source)


@dataclass(frozen=True, slots=True)
class _Library:
    """What is needed of the package `cryptography`."""

    encryptor: Callable[[bytes, bytes], Any]
    decryptor: Callable[[bytes, bytes], Any]
    invalid_tag: type[Exception]
    wrap: Callable[[bytes, bytes], bytes]
    unwrap: Callable[[bytes, bytes], bytes]
    invalid_unwrap: type[Exception]


def _library() -> _Library:
    """Return the library, which only those need that encrypt.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives import keywrap
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    except ImportError as error:
        raise ConfigError(
            "Spill(encrypt=True) needs the package cryptography, and nothing is written without "
            'it; pip install "flowguard[encrypt]"'
        ) from error
    return _Library(
        encryptor=lambda key, nonce: Cipher(algorithms.AES(key), modes.GCM(nonce)).encryptor(),
        decryptor=lambda key, nonce: Cipher(algorithms.AES(key), modes.GCM(nonce)).decryptor(),
        invalid_tag=InvalidTag,
        wrap=keywrap.aes_key_wrap,
        unwrap=keywrap.aes_key_unwrap,
        invalid_unwrap=keywrap.InvalidUnwrap,
    )
