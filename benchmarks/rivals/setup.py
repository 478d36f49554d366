"""Install every rival into a virtual environment of its own, `benchmarks/.venvs/<rival>`.

    python benchmarks/rivals/setup.py                 # all of them, what is there already is kept
    python benchmarks/rivals/setup.py pfl byzfl       # some
    python benchmarks/rivals/setup.py --again flower  # from scratch

torch comes first, at the version of `constraints.txt`, so that every arm of a comparison computes with the
same kernels and so that no rival's own dependencies replace a CPU build by a CUDA one of several GB. Where
pip looks for wheels is pip's business: point PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS to CPU builds of torch.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent.parent
VENVS = BENCHMARKS / ".venvs"
CONSTRAINTS = BENCHMARKS.parent / "constraints.txt"
READY = "ready.txt"  # written last: a half-installed environment is never mistaken for a whole one

# What a distribution asks for, seen from inside its environment; pip's own `packaging` spares an install.
DEPENDENCIES = """
import importlib.metadata, sys
from pip._vendor.packaging.requirements import Requirement
name, extra, *unpinned = sys.argv[1:]
for text in importlib.metadata.requires(name):
    r = Requirement(text)
    if r.marker is None or r.marker.evaluate({"extra": extra}):
        print(r.name if r.name in unpinned else str(r).split(";")[0].strip())
"""


def pip(python: Path, *arguments: str) -> None:
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *arguments], check=True)


def flower(python: Path) -> None:
    """flwr 1.42.0 with Ray. It wants a certifi newer than the registry had, so that one goes unpinned."""
    pip(python, "--no-deps", "flwr==1.42.0")
    wanted = subprocess.run(
        [str(python), "-c", DEPENDENCIES, "flwr", "simulation", "certifi"],
        check=True,
        capture_output=True,
        text=True,
    )
    pip(python, "-c", str(CONSTRAINTS), *wanted.stdout.split("\n")[:-1])


def pfl(python: Path) -> None:
    """pfl 0.6.0 installs cleanly."""
    pip(python, "-c", str(CONSTRAINTS), "pfl[pytorch]==0.6.0")


def byzfl(python: Path) -> None:
    """byzfl 0.0.11 without torchvision, which would pull in CUDA torch; `byzfl_fedavg.py` does without."""
    pip(python, "--no-deps", "byzfl==0.0.11")
    wanted = ("numpy>=1.26.4", "matplotlib>=3.8.3", "scipy>=1.12.0", "seaborn>=0.13.2")
    pip(python, "-c", str(CONSTRAINTS), *wanted)


def optimizers(python: Path) -> None:
    """pytorch-optimizer and heavyball, for `benchmarks/optimizers.py`, which runs Shoal's own beside them."""
    wanted = ("pytorch-optimizer==4.1.0", "heavyball==3.2.1", "safetensors", "msgspec")
    pip(python, "-c", str(CONSTRAINTS), *wanted)


def compression(python: Path) -> None:
    """hivemind, for `benchmarks/compression.py`, which runs Shoal's own beside it, and `benchmarks/rounds.py`.

    Its decoding takes an array of one number for the number, which numpy 2.4 refuses.
    """
    pip(python, "-c", str(CONSTRAINTS), "hivemind==1.1.12", "numpy<2.4", "safetensors", "msgspec")


def p2pfl(python: Path) -> None:
    """p2pfl 0.4.4, for `benchmarks/rounds.py`. Its extra for torch wants a torchvision of torch 2.2: without it."""
    loose = ("numpy<2", "pyarrow<18", "huggingface_hub<0.26")  # what its datasets 2.15 works with
    pip(python, "-c", str(CONSTRAINTS), "p2pfl[dp]==0.4.4", "lightning>=2.4,<3", "torchmetrics>=1.3.1,<2", *loose)


RIVALS = {
    "flower": flower,
    "pfl": pfl,
    "byzfl": byzfl,
    "optimizers": optimizers,
    "compression": compression,
    "p2pfl": p2pfl,
}


def install(name: str, again: bool = False) -> None:
    """Create `.venvs/<name>` unless it is there already, whole."""
    folder = VENVS / name
    if (folder / READY).exists() and not again:
        print(f"{name}: already in {folder}")
        return
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{name}: installing into {folder} ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip(python, "-c", str(CONSTRAINTS), "torch", "numpy")
    RIVALS[name](python)
    frozen = subprocess.run([str(python), "-m", "pip", "freeze"], check=True, capture_output=True, text=True)
    (folder / READY).write_text(frozen.stdout)
    print(f"{name}: {len(frozen.stdout.splitlines())} packages")


def main() -> None:
    parser = argparse.ArgumentParser(description="Install the rivals, one virtual environment each.")
    parser.add_argument("rivals", nargs="*", metavar="rival", help=f"of {', '.join(RIVALS)} (default: all)")
    parser.add_argument("--again", action="store_true", help="throw an environment away and install it anew")
    chosen = parser.parse_args()
    unknown = set(chosen.rivals) - set(RIVALS)
    if unknown:
        parser.error(f"unknown rival {', '.join(sorted(unknown))}; there are {', '.join(RIVALS)}")
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        parser.error(f"pfl and Ray need Python 3.11 or 3.12, this is {sys.version.split()[0]}")
    for name in chosen.rivals or RIVALS:
        install(name, chosen.again)


if __name__ == "__main__":
    main()
