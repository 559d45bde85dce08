"""What is encrypted can be read with its key, at its place, and not otherwise."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from flowguard.errors import ConfigError
from flowguard.spill.cipher import (
    SLICE_BYTES,
    TAG_BYTES,
    EphemeralKey,
    Key,
    SegmentCipher,
    Tampered,
    new_segment_key,
    require_library,
    unwrap_segment_key,
)

entropy: Callable[[int], bytes] = Random(1).randbytes


def cipher() -> SegmentCipher:
    return new_segment_key(EphemeralKey(entropy), entropy)[2]


@pytest.mark.parametrize("size", [0, 1, 64, SLICE_BYTES, SLICE_BYTES + 1])
def test_a_payload_of_any_size_comes_back(size: int) -> None:
    one = cipher()
    plain = entropy(size)
    parts = [plain[: size // 3], b"", pa.py_buffer(plain[size // 3 :])]

    sealed = one.encrypt(5, parts, size, b"header")

    assert sealed.size == size + TAG_BYTES
    assert plain[:16] not in sealed.to_pybytes() or size < 16
    assert one.decrypt(5, sealed, b"header").to_pybytes() == plain


@pytest.mark.parametrize("change", ["number", "bound_to", "key", "flip", "cut", "what"])
def test_a_payload_that_is_not_in_its_place_is_tampered_with(change: str) -> None:
    one = cipher()
    sealed = one.encrypt(5, [b"secret" * 10], 60, b"header").to_pybytes()
    number, bound_to, reader = 5, b"header", one
    if change == "number":
        number = 6
    elif change == "bound_to":
        bound_to = b"Header"
    elif change == "key":
        reader = cipher()
    elif change == "flip":
        sealed = bytes([sealed[0] ^ 1]) + sealed[1:]
    elif change == "cut":
        sealed = sealed[: TAG_BYTES - 1]

    opened = reader.reveal if change == "what" else reader.decrypt
    with pytest.raises(Tampered):
        opened(number, sealed, bound_to)


def test_what_is_hidden_comes_back() -> None:
    one = cipher()

    sealed = one.hide(0, b"orders", b"place")

    assert b"orders" not in sealed and len(sealed) == 6 + TAG_BYTES
    assert one.reveal(0, sealed, b"place") == b"orders"


class TwoKeys:
    """A provider that has rotated."""

    def __init__(self, *keys: Key) -> None:
        self.keys = keys

    def current(self) -> Key:
        return self.keys[-1]

    def find(self, key_id: str) -> Key | None:
        return next((key for key in self.keys if key.id == key_id), None)


def test_a_segment_is_opened_by_the_key_that_wrapped_its_own() -> None:
    old, new = Key("2025", entropy(32)), Key("2026", entropy(32))
    key_id, wrapped, writer = new_segment_key(TwoKeys(old), entropy)
    sealed = writer.encrypt(0, [b"x"], 1, b"")

    reader = unwrap_segment_key(TwoKeys(old, new), key_id, wrapped)

    assert key_id == "2025" and reader is not None
    assert reader.decrypt(0, sealed, b"").to_pybytes() == b"x"
    assert new_segment_key(TwoKeys(old, new), entropy)[0] == "2026"


def test_a_missing_key_another_key_and_damage_open_nothing() -> None:
    keys = TwoKeys(Key("k", entropy(32)))
    key_id, wrapped, _ = new_segment_key(keys, entropy)

    assert unwrap_segment_key(TwoKeys(Key("j", entropy(32))), key_id, wrapped) is None
    assert unwrap_segment_key(TwoKeys(Key("k", entropy(32))), key_id, wrapped) is None
    assert unwrap_segment_key(keys, key_id, wrapped[:-1]) is None
    assert unwrap_segment_key(keys, key_id, b"") is None


def test_an_ephemeral_key_is_known_to_nobody_else() -> None:
    one, other = EphemeralKey(entropy), EphemeralKey(entropy)

    assert one.find(one.current().id) == one.current()
    assert other.find(one.current().id) is None


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(Key("k", b"secret" + bytes(26)))


def test_a_key_of_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="16 bytes; use 32"):
        Key("k", bytes(16))


def test_without_the_package_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(ConfigError, match=r"pip install \"flowguard\[encrypt\]\""):
        require_library()
