"""Who is not beaten: the Pareto front of results and what they cost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.report.tradeoff import front

points = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=12)


@given(points, st.booleans())
def test_a_point_is_on_the_front_exactly_if_no_other_beats_it(found: list[tuple[int, int]], higher: bool) -> None:
    """By the definition, over all pairs; of equal points the first stands for all."""
    costs, values = [float(c) for c, _ in found], [float(v) for _, v in found]
    sign = 1.0 if higher else -1.0

    def beats(i: int, j: int) -> bool:
        no_worse = costs[i] <= costs[j] and sign * values[i] >= sign * values[j]
        return no_worse and (costs[i] < costs[j] or sign * values[i] > sign * values[j] or i < j)

    expected = {j for j in range(len(found)) if not any(beats(i, j) for i in range(len(found)) if i != j)}
    kept = front(costs, values, higher)
    assert set(kept) == expected
    assert [costs[i] for i in kept] == sorted({costs[i] for i in kept})
