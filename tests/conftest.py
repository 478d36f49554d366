"""Settings of all tests: one torch thread, compiled steps kept apart, the same examples of hypothesis every time."""

import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
settings.register_profile("shoal", deadline=None, derandomize=True)  # without deadlines, as machines are slow at times
settings.load_profile("shoal")


@pytest.fixture(scope="session", autouse=True)
def caches(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept between runs, such as compiled steps, lies beside what pytest keeps and not in the user's home."""
    kept = getattr(pytestconfig, "cache", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(kept.mkdir("shoal") if kept else tmp_path_factory.mktemp("caches")))
        yield
