"""A diagnosis as one self-contained page: what each instrument says, in a sentence, a picture and numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shoal.files import atomically
from shoal.report.page import write_page
from shoal.report.sections import SECTIONS, Found, Section, training
from shoal.report.units import digits

JSON, PAGE = "diagnosis.json", "report.html"


def write_diagnosis(content: Found, folder: str | Path, drawn: dict[str, Section] | None = None) -> Path:
    """Write `diagnosis.json` and `report.html` into a folder, each whole or not at all.

    Args:
        content: of the JSON file, as `shoal.diagnosis.Diagnosis.to_json` has it.
        folder: made if it is not there.
        drawn: instrument -> its section, of those that an earlier call has drawn; filled in.

    Returns:
        The page.
    """
    folder = Path(folder)
    write_numbers(content, folder)
    return write_page(folder / PAGE, "shoal.report/diagnosis.html", **_shown(content, {} if drawn is None else drawn))


def write_numbers(content: Found, folder: Path) -> None:
    """Write `diagnosis.json` alone, whole or not at all."""
    with atomically(folder / JSON) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def summary(content: Found) -> list[tuple[str, str]]:
    """What is said of the training and by each instrument: a title and a sentence; nothing is drawn."""
    found = [SECTIONS[name](content["found"][name], content) for name in SECTIONS if name in content["found"]]
    sections = [training(content), *found] if content["training"] else found
    left_out = [(name.capitalize(), f"Left out: {why}.") for name, why in content["skipped"].items()]
    return [(section.title, section.sentence) for section in sections] + left_out


def _shown(content: Found, drawn: dict[str, Section]) -> dict[str, Any]:
    about, found, trained = content["subject"], content["found"], content["training"]
    drawn.setdefault("training", training(content))
    drawn |= {name: SECTIONS[name](found[name], content) for name in found if name not in drawn}
    return {
        "kicker": "shoal diagnosis",
        "title": f"{about['optimizer']} on {about['task']}",
        "version": content["shoal"],
        "finished": content["finished"],
        "diverged": trained["diverged"] or trained["grew"],
        "sections": [drawn["training"], *(drawn[name] for name in SECTIONS if name in found)],
        "skipped": content["skipped"],
        "facts": _facts(content),
    }


def _facts(content: Found) -> list[tuple[str, str]]:
    about, settings = content["subject"], content["settings"]
    classes = [("classes", f"{about['classes']:,}")] if about["classes"] else []
    return [
        ("data", about["source"]),
        ("training samples", f"{about['samples']:,}"),
        *classes,
        ("parameters", f"{about['parameters']:,}"),
        ("learning rate", digits(about["lr"])),
        ("steps", f"{settings['steps']:,}"),
        ("batch", f"{settings['batch']:,}"),
        ("samples measured on", f"{settings['samples']:,}"),
        ("seed", str(settings["seed"])),
    ]
