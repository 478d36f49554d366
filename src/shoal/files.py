"""Files that appear whole or not at all: written under a temporary name beside the target, then renamed."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` to write to; on success it replaces `path`.

    When the body raises, the temporary file is removed and an older `path` stays as it was. Missing parent
    folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_durably(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file that is whole, or as it was before, even if power fails; on disk when this returns.

    Args:
        path: of the file; missing parent folders are made.
        data: its content.
        mode: who may read and write it, as far as the process's umask lets them.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, mode)

    with atomically(path) as temporary, open(temporary, "wb", opener=opener) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all, that whoever may read other new files may read, too.

    Args:
        path: of the file; missing parent folders are made.
        tensors: on the CPU, contiguous, none sharing memory with another.
        about: the file's metadata.

    Raises:
        OSError: it cannot be written, and why.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomically(path) as temporary:
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file(dict(tensors), temporary, metadata=None if about is None else dict(about))
            temporary.chmod(mode)  # safetensors gives it to the owner alone
        except OSError as error:
            if error.errno is None:
                raise
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
        except SafetensorError as error:
            known = re.search(r"\(os error (\d+)\)", str(error))
            if known is None:
                raise
            raise OSError(int(known[1]), os.strerror(int(known[1])), str(path)) from None


def check_file(path: Path) -> None:
    """See whether a file can be written, in a folder that may have to be made first; nothing is left behind.

    Raises:
        OSError: it cannot, and why.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    check_folder(path.absolute().parent)


def check_folder(folder: Path) -> None:
    """See whether files can be written to a folder that may have to be made first; nothing is left behind.

    Raises:
        OSError: they cannot, and why.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    tempfile.TemporaryDirectory(dir=there).cleanup()
