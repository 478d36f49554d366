"""The command line answers without what it does not need: asserted on what a fresh interpreter has imported."""

import subprocess
import sys

import pytest

HEAVY = {"iroh", "aiohttp", "torch", "scipy", "networkx", "numpy", "matplotlib", "sklearn", "pandas", "pyarrow"}

COMMAND = """
import sys
from shoal.cli import main
sys.argv = ["shoal", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(*sorted(name.partition(".")[0] for name in sys.modules), file=sys.stderr)
"""

LIBRARY = "import sys; before = set(sys.modules); import shoal; print(*sorted(set(sys.modules) - before))"


def fresh(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["list"],
        ["list", "protocol"],
        ["run", "--help"],
        ["--version"],
        ["optim"],
        ["optim", "compare", "--help"],
        ["nowcast", "train", "--help"],
        ["diagnose", "--help"],
        ["up", "--help"],
        ["join", "--help"],
        ["watch", "--help"],
    ],
    ids=" ".join,
)
def test_asking_for_help_imports_nothing_heavy(words: list[str]) -> None:
    done = fresh(COMMAND, *words)
    assert done.stdout.strip()
    assert HEAVY.isdisjoint(done.stderr.splitlines()[-1].split())


def test_everything_that_can_be_named_is_listed_without_importing_it() -> None:
    from shoal import names

    listed = fresh(COMMAND, "list").stdout
    assert all(name in listed for kind in names.KINDS.values() for name in kind)


def test_importing_shoal_imports_nothing_but_shoal_and_the_standard_library() -> None:
    imported = {name.partition(".")[0] for name in fresh(LIBRARY).stdout.split()}
    assert imported - set(sys.stdlib_module_names) == {"shoal"}


def test_the_public_names_bring_torch_and_no_other_heavy_package() -> None:
    code = "import sys, shoal; [getattr(shoal, name) for name in shoal.__all__]; print(*sys.modules)"
    imported = {name.partition(".")[0] for name in fresh(code).stdout.split()}
    assert imported & HEAVY <= {"torch", "numpy"}  # torch itself imports numpy


def test_watching_needs_no_torch() -> None:
    assert "torch" not in fresh("import sys, shoal.cli.watching; print(*sys.modules)").stdout.split()
