"""The claim's exact criteria, which blocks the model gets, and how losses are judged."""

import pytest

from shoal.papers import adam_mini as paper

from .made import comparison


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.coordinates(figures).holds
    assert paper.whole(figures).holds
    assert paper.memory(figures, paper.model()).holds
    assert figures["Llama 2 7B: second moments that go"] < 1.0


def test_the_shapes_of_llama_have_as_many_entries_as_are_known() -> None:
    assert sum(a * (b[0] if b else 1) for _, (a, *b) in paper.llama()) == 6_738_415_616


def test_the_model_gets_a_second_moment_a_head_or_a_row() -> None:
    width = paper.WIDTH
    parameters = {name: p.detach() for name, p in paper.model().initial(0).named_parameters()}
    symbols = parameters["embed.weight"].shape[0]
    biases = sum(p.numel() for name, p in parameters.items() if "bias" in name)
    block = 2 * paper.HEADS + width + width + 4 * width + width + 2  # q and k, v, proj, up, down, two norms
    kept = paper.adam_mini(0.01).memory(parameters)
    total = sum(slot.numel() for slot in kept.values()) - sum(p.numel() for p in parameters.values())
    assert total == 2 * block + 2 * symbols + biases + 2  # one for positions, one for the last norm


@pytest.mark.parametrize(
    ("ours", "bad", "expected"),
    [(1.01, 1.5, [True, True]), (1.021, 1.02, [False, False]), (1.02, 1.02, [True, True])],
)
def test_losses_are_judged_relative_to_adamw(ours: float, bad: float, expected: list[bool]) -> None:
    found = comparison({"AdamW": 1.0, "Adam-mini": ours, "one block a tensor": bad})
    assert [finding.holds for finding in paper.losses(found)] == expected
