"""How growth is fitted, and that every stage runs at its smallest."""

import pytest

from benchmarks.growth import STAGES, exponent, table


def test_the_exponent_of_a_power_is_found() -> None:
    sizes = [1, 2, 4, 8, 16, 32]
    assert exponent(sizes, [5 * size**3 for size in sizes]) == pytest.approx(3)
    # what is paid once at small sizes has no say
    assert exponent(sizes, [1000, 1000, 1000, 64, 256, 1024]) == pytest.approx(2)


def test_a_line_says_what_the_algorithm_allows() -> None:
    rows = [(side, side**2 / 1e4, side**2 / 1e3) for side in (10, 20, 40, 80)]
    assert table({"confident labels": rows}).splitlines()[-1] == (
        "| confident labels | side | 2.00 | 2 | 2.00 | 2 | 80: 0.64 s, 6 MiB |"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_runs(name: str) -> None:
    STAGES[name].build(32)()
