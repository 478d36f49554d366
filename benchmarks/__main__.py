"""What Shoal costs, side by side with what else one could run: `python -m benchmarks [name ...]`."""

from __future__ import annotations

import argparse
import importlib
import sys

from rich.console import Console

from benchmarks.report import Options, Report, circumstances, target_table

NAMES = {
    "clients": "FedAvg in Shoal, Flower, pfl-research, ByzFL and bare PyTorch",
    "overhead": "the engine beside its own kernel in a bare loop, and beside bmm by hand",
    "small": "1,000 clients with tiny models beside a Python loop",
    "messages": "CPU microseconds a message",
    "scale": "10,000 peers: memory and growth",
    "start": "how soon the command line answers",
    "compression": "codecs: bytes a second, beside hivemind's and torch's",
    "transport": "large frames and pings over the open network's transport, beside bare iroh",
    "cluster": "a Ray cluster: frames beside plain calls, and what jobs cost on the way",
    "rounds": "a D-SGD round of 8 real processes beside p2pfl and hivemind",
    "optimizers": "a step of every optimizer beside torch's fused AdamW and other packages",
}


def main() -> int:
    about = "\n".join(f"  {name:<11} {what}" for name, what in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{__doc__}\n\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", metavar="name[:case]", help="which (default: all), as clients or clients:cnn"
    )
    parser.add_argument("-n", "--repetitions", type=int, help="of every arm, interleaved (default: 2 to 7)")
    parser.add_argument("--quick", action="store_true", help="smaller, once, without Flower: to see that all works")
    chosen = parser.parse_args()
    wanted = [name.partition(":")[::2] for name in chosen.names] or [(name, "") for name in NAMES]
    if unknown := [name for name, _ in wanted if name not in NAMES]:
        parser.error(f"unknown benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    console = Console(width=max(Console().width, 110))
    progress = Console(stderr=True)
    console.print("   ".join(circumstances().values()), highlight=False, soft_wrap=True)
    reports: list[Report] = []
    for name, case in wanted:
        options = Options(chosen.repetitions, case or None, chosen.quick, progress.print)
        report: Report = importlib.import_module(f"benchmarks.{name}").run(options)
        reports.append(report)
        report.show(console)
        if not (case or chosen.quick):  # what is kept is whole
            console.print(f"stored: {report.store()}", highlight=False, soft_wrap=True)
    targets = [target for report in reports for target in report.targets]
    binding = [target for target in targets if target.binding]
    if len(reports) > 1:
        console.print(target_table(targets))
    missed = [target for target in binding if target.met is False]
    console.print(f"{len(binding) - len(missed)} of {len(binding)} targets met or not measured")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
