"""Who a peer is: an Ed25519 key pair. The public key is its name in the network, the secret one never leaves it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from shoal.files import atomically
from shoal.net.iroh.binding import load

KEY_BYTES = 32


def load_or_make_key(path: Path) -> bytes:
    """The secret key in a file, which is made with a new one, for its owner alone, if it is not there.

    Returns:
        32 bytes.

    Raises:
        ValueError: the file is no key, or others may read it.
    """
    if not path.exists():
        secret = os.urandom(KEY_BYTES)
        with atomically(path) as temporary, open(_own(temporary), "wb") as file:
            file.write(secret)
            os.fsync(file.fileno())
        return secret
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ValueError(f"{path}: others than its owner may read this secret key; chmod 600 it, or remove it")
    secret = path.read_bytes()
    if len(secret) != KEY_BYTES:
        raise ValueError(f"{path}: has {len(secret)} bytes; a secret key has {KEY_BYTES}")
    return secret


def _own(path: Path) -> int:
    """Open a new file that its owner alone may read."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def public(secret: bytes) -> str:
    """The public key of a secret one: 64 digits 0-9 a-f.

    Raises:
        ValueError: no key.
        MissingIroh: iroh is not installed.
    """
    return str(_secret(secret).public())


def sign(secret: bytes, message: bytes) -> bytes:
    """The signature of a message, 64 bytes."""
    signature: bytes = _secret(secret).sign(message).to_bytes()
    return signature


def is_signed(key: str, message: bytes, signature: bytes) -> bool:
    """Whether the holder of a public key has signed a message."""
    iroh = load()
    if len(signature) != 2 * KEY_BYTES:
        return False
    try:
        iroh.EndpointId.from_string(key).verify(message, iroh.Signature.from_bytes(signature))
    except iroh.IrohError:
        return False
    return True


def _secret(secret: bytes) -> Any:
    if len(secret) != KEY_BYTES:
        raise ValueError(f"secret: got {len(secret)} bytes; a secret key has {KEY_BYTES}")
    return load().SecretKey.from_bytes(secret)
