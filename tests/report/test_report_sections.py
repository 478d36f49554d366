"""What a diagnosis says in sentences, and what its pictures show."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from shoal.report.sections import SECTIONS, training
from shoal.report.sections.directions import DOWN, RISES, STILL, TOO_MUCH, UNKNOWN, UP, trouble
from shoal.report.sections.opposing import label

CONTENT: dict[str, Any] = {"training": {"losses": [1.0] * 40}, "settings": {"batch": 8}}


# -- the training ----------------------------------------------------------------------------------------------


def trained(looked: list[float | None], **more: Any) -> str:
    losses = more.pop("losses", [2.0] * 10)
    found = {"losses": losses, "looks": [0, 5, 10], "looked": looked, "samples": 8, "diverged": False, "grew": False}
    return training({"training": {**found, **more}}).sentence


def test_the_course_of_a_training_is_told() -> None:
    assert trained([2.0, 1.0, 0.5]).startswith("The loss went from 2 to 0.5 in 10 steps")
    assert trained([2.0, 1.0, 2.1]).startswith("The loss did not fall: it went from 2 to 2.1")
    assert trained([2.0, 1.0, 0.5], losses=[2.0, 65.0, 1.0]).endswith("On the way it was as high as 65.")
    assert "grew from 2 to 70" in trained([2.0, 9.0, 70.0], grew=True)
    told = trained([2.0, 9.0, None], diverged=True, looks=[0, 5], losses=[2.0] * 7)
    assert told.startswith("The training diverged: at step 7 ")
    assert told.endswith("as it was after step 0 and 5.")


# -- sharpness -------------------------------------------------------------------------------------------------


def sharp(values: list[float | None], edge: float | None, formula: str) -> str:
    found = {
        "steps": [10 * i for i in range(len(values))],
        "eigenvalues": values,
        "errors": [0.0] * len(values),
        "stability": {"edge": edge, "formula": formula},
    }
    section = SECTIONS["sharpness"](found, CONTENT)
    assert section.pictures[0][1].startswith("<svg")
    return section.sentence


def test_the_peak_of_sharpness_is_told_and_compared_with_the_edge() -> None:
    told = sharp([1.0, 30.0, 2.0], 20.0, "2 / lr")
    assert "rose: 1 at first, 2 at last; of 3 looks its peak was 30, after step 10." in told
    assert "The peak is above 20 = 2 / lr" in told
    assert "All of it is below 38 = 2 (1 + 0.9) / lr" in sharp([1.0, 30.0, 2.0], 38.0, "2 (1 + 0.9) / lr")


def test_no_threshold_is_claimed_where_there_is_none() -> None:
    told = sharp([1.0, 3.0], None, "the steps of adam are not in proportion to gradients")
    assert told.endswith(
        "No simple threshold of the plain sharpness holds: the steps of adam are not in proportion to gradients."
    )


def test_a_hessian_that_is_not_finite_is_told() -> None:
    assert sharp([None, None], 20.0, "2 / lr").startswith("The Hessian is not finite.")
    assert "was 1 after step 0" in sharp([1.0, None], 20.0, "2 / lr")


# -- along the updates -----------------------------------------------------------------------------------------


def along(**more: Any) -> dict[str, Any]:
    whole = {"length": 1.0, "sharpness": 2.0, "slope": -1.0, "step": 0.5, "decrease": 0.25, "measured": 0.2}
    return {**whole, **more}


@pytest.mark.parametrize(
    ("direction", "loss", "why"),
    [
        (along(), 2.0, ""),
        (along(sharpness=0.01, step=100.0, decrease=50.0), 2.0, TOO_MUCH),
        (along(sharpness=0.01, step=100.0, decrease=50.0), -2.0, ""),  # a loss that may be below 0 bounds nothing
        (along(measured=-215_300.0), 2.0, RISES),
        (along(sharpness=-1.0, step=None, decrease=None, measured=None), 2.0, DOWN),
        (along(slope=1.0, step=0.0, decrease=0.0), 2.0, UP),
        (along(length=0.0, slope=0.0, sharpness=0.0), 2.0, STILL),
        (along(slope=None), 2.0, UNKNOWN),
    ],
)
def test_it_is_known_where_the_quadratic_model_does_not_hold(direction: Any, loss: float, why: str) -> None:
    assert trouble(direction, loss) == why


def test_optimizers_whose_model_does_not_hold_stay_in_the_table_and_are_not_the_best() -> None:
    updates = {
        "yours: sgd": along(),
        "Adam": along(sharpness=0.05, step=20.0, decrease=38.7, measured=-3.0),
        "Lion": along(sharpness=-0.5, step=None, decrease=None, measured=None),
    }
    section = SECTIONS["directions"]({"steps": 30, "loss": 2.23, "updates": updates}, CONTENT)
    assert "lowers it most along that of yours: sgd, by 0.25 of 2.23" in section.sentence
    assert (
        "Along the updates of Adam the quadratic model does not hold: it would lower the loss by more than all its "
        "2.23." in section.sentence
    )
    assert (
        "Along the updates of Lion the quadratic model does not hold: the loss does not bend up (negative curvature"
        in section.sentence
    )
    rows = {row[0]: row[1:] for row in section.rows}
    assert list(rows) == list(updates)
    assert rows["Adam"][-1] == "no: more than the whole loss"
    assert rows["Lion"][2:] == ["–", "–", "–", "no: the loss does not bend up"]
    picture = section.pictures[0][1]
    assert TOO_MUCH in picture
    assert DOWN in picture


@pytest.mark.parametrize(("steps", "words"), [(30, "the last 30 steps"), (40, "all 40 steps")])
def test_it_is_told_how_many_gradients_they_were_fed(steps: int, words: str) -> None:
    section = SECTIONS["directions"]({"steps": steps, "loss": 1.0, "updates": {"Adam": along()}}, CONTENT)
    assert f"were fed the gradients of {words} of this training" in section.note


# -- class frequencies -----------------------------------------------------------------------------------------


def by_frequency(shares: list[float], classes: list[int], last: dict[str, list[float | None]]) -> Any:
    found = {
        "steps": [0, 10],
        "frequencies": shares,
        "classes": classes,
        "samples": [10] * len(shares),
        "losses": {name: [[2.0] * len(shares), row] for name, row in last.items()},
        "rates": dict.fromkeys(last, 0.3),
        "own": 0.1,
        "tried": 3,
    }
    return SECTIONS["frequencies"](found, CONTENT)


@pytest.mark.parametrize("classes", [[1, 1], [3, 2]])
def test_of_balanced_data_sentence_and_note_say_that_there_is_nothing_to_see(classes: list[int]) -> None:
    section = by_frequency([0.2, 0.19], classes, {"yours: adam": [1.0, 1.5]})
    assert section.sentence.startswith("There is nothing to see here")
    assert section.note.startswith("There is nothing to see here")


def test_what_was_tuned_is_told_and_who_diverged() -> None:
    section = by_frequency([0.5, 0.01], [1, 9], {"yours: adam": [1.0, 1.5], "sign": [None, None]})
    assert section.sentence.endswith("Diverged: sign.")
    assert "the best of 3" in section.note
    assert "Yours was tuned like the others, around the 0.1 that was set" in section.note
    assert "nothing to see" not in section.note


# -- opposing signals ------------------------------------------------------------------------------------------


def groups(up: Any, down: Any, **more: Any) -> Any:
    whole = {
        "samples": 64,
        "count": 1,
        "step": 0,
        "rises": True,
        "share": 0.5,
        "cosine": -0.9,
        "losses": [1.0, 1.1, 0.9],
        "eigenvalues": {"steps": [0, 2], "values": [1.0, 2.0]},
        "stability": {"edge": None, "formula": ""},
        "output": "probability of class 1",
        "shades": [0.0, 0.1, 1.0],
        "vocabulary": None,
        "diverged": False,
        "up": {"losses": [1.0, 2.0, 1.0], "outputs": [0.1, 0.2, 0.3], "before": [1.0], "after": [2.0], **up},
        "down": {"losses": [2.0, 1.0, 1.0], "outputs": [0.1, 0.2, 0.3], "before": [2.0], "after": [1.0], **down},
    }
    return SECTIONS["opposing"]({**whole, **more}, CONTENT)


def test_thumbnails_share_one_map_of_greys() -> None:
    dark, bright = [0.2] * 35 + [0.8], [0.8] * 35 + [0.2]
    section = groups({"inputs": [dark], "targets": [3]}, {"inputs": [bright], "targets": [4]})
    (_, _), (_, svg) = section.pictures
    first, second = (
        image.imread(io.BytesIO(base64.b64decode("".join(text.split()))), format="png")
        for text in re.findall(r"data:image/png;base64,([^\"]+)\"", svg)
    )
    middle = [np.median(pixels[..., 0]) for pixels in (first, second)]
    assert middle[0] > middle[1]  # mostly 0.2 is lighter than mostly 0.8 where most of the data are near 0, and white
    assert {round(float(v), 2) for v in np.unique(first[..., 0])} == {
        round(float(v), 2) for v in np.unique(second[..., 0])
    }
    assert "class 3" in svg


@pytest.mark.parametrize(
    ("target", "vocabulary", "shown"),
    [
        ([1, 0, 2], "ab\n", r"'ba\n'"),
        (1, "ab\n", "'b'"),
        (1, None, "1"),
        (0.25, None, "0.25"),
        ([3, 4], None, "3, 4"),
        (list(range(9)), None, "0, 1, 2, 3, 4, 5, 6, 7 ..."),
    ],
)
def test_targets_of_texts_are_characters(target: Any, vocabulary: str | None, shown: str) -> None:
    assert label(target, vocabulary) == shown


def test_groups_are_named_by_what_their_losses_did() -> None:
    nothing: dict[str, Any] = {"inputs": [], "targets": [[1, 0]]}
    section = groups(nothing, nothing, vocabulary="ab")
    assert [row[0] for row in section.rows] == ["loss rose most", "loss fell most"]
    assert [row[1] for row in section.rows] == ["'ba'", "'ba'"]
    section = groups({**nothing, "losses": [2.0, 1.9, 1.0]}, nothing, rises=False, diverged=True)
    assert [row[0] for row in section.rows] == ["loss fell least", "loss fell most"]
    assert "diverged after 2 steps" in section.sentence
