"""What is known of a cluster before anything runs on it."""

from __future__ import annotations

from shoal.net.ray import cpus_of_each


def test_cpus_are_dealt_out_so_that_every_host_fits_on_a_machine() -> None:
    assert cpus_of_each(1, [2]) == 2
    assert cpus_of_each(2, [2]) == 1
    assert cpus_of_each(3, [2]) == 0.5
    assert cpus_of_each(2, [3, 1]) == 1
    assert cpus_of_each(5, [3, 1]) == 0.5
    for nodes in ([4, 4, 1], [7], [1, 1, 1], [16, 3]):
        for actors in range(1, 20):
            cpus = cpus_of_each(actors, nodes)
            assert sum(int(have / cpus) for have in nodes) >= actors
