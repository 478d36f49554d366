"""Keys, and the binding that computes with them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("iroh", reason="iroh is not installed")

from shoal.net.iroh import binding
from shoal.net.iroh.identity import is_signed, load_or_make_key, public, sign

# RFC 8032, section 7.1, tests 1 and 2
RFC = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
        "b00d291612bb0c00",
    ),
]


@pytest.mark.parametrize(("secret", "key", "message", "signature"), RFC)
def test_keys_and_signatures_are_those_of_the_standard(secret: str, key: str, message: str, signature: str) -> None:
    assert public(bytes.fromhex(secret)) == key
    assert sign(bytes.fromhex(secret), bytes.fromhex(message)).hex() == signature
    assert is_signed(key, bytes.fromhex(message), bytes.fromhex(signature))
    assert not is_signed(key, bytes.fromhex(message) + b"x", bytes.fromhex(signature))
    assert not is_signed(key, bytes.fromhex(message), bytes(64))
    assert not is_signed(key, bytes.fromhex(message), b"short")
    assert not is_signed("no key", bytes.fromhex(message), bytes.fromhex(signature))


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    secret = load_or_make_key(path)
    assert len(secret) == 32
    assert load_or_make_key(path) == secret == path.read_bytes()
    assert load_or_make_key(tmp_path / "other") != secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["key"]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    load_or_make_key(path)
    path.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        load_or_make_key(path)


def test_a_file_that_is_no_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(ValueError, match="has 5 bytes; a secret key has 32"):
        load_or_make_key(path)
    with pytest.raises(ValueError, match="secret: got 5 bytes"):
        public(b"short")


def test_errors_are_in_words() -> None:
    iroh = binding.load()
    with pytest.raises(iroh.IrohError) as caught:
        iroh.EndpointId.from_string("zz")
    assert str(caught.value) == ""
    assert binding.words(caught.value) == "invalid length"
    assert binding.words(KeyError()) == "KeyError"
    closed = SimpleNamespace(
        message=lambda: 'ApplicationClosed(ApplicationClose { error_code: 4, reason: b"too big" })'
    )
    assert binding.words(closed) == "closed by the other side: too big"  # type: ignore[arg-type]


def test_the_fast_copy_is_for_slow_builders_alone() -> None:
    class Slow:
        def write(self, value: bytes) -> None:
            for i, byte in enumerate(value):
                self.data[i] = byte  # type: ignore[attr-defined]

    class Fast:
        def write(self, value: bytes) -> None:
            self.copy(value)  # type: ignore[attr-defined]

    assert binding.copies_byte_by_byte(Slow)
    assert not binding.copies_byte_by_byte(Fast)
    assert not binding.copies_byte_by_byte(int)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 100_000])
def test_the_fast_copy_writes_the_same_bytes(size: int) -> None:
    binding.load()
    from iroh import iroh_ffi

    content = os.urandom(size)
    for value in (content, bytearray(content), memoryview(content)):
        builder = iroh_ffi._UniffiRustBufferBuilder()
        builder.write(b"before")
        builder.write(value)
        buffer = builder.finalize()
        try:
            assert buffer.data[: buffer.len] == b"before" + content
        finally:
            buffer.free()
