"""Every option of every command with wrong values: each is refused in one line that names it."""

from collections import Counter

import pytest

from benchmarks.reliability import options


@pytest.mark.parametrize("command", list(options.COMMANDS))
def test_wrong_options_are_named(command):
    counts: Counter[str] = Counter()
    with options.stage():
        found = options.faults(command, counts)
    assert found == []
    assert counts["wrong"] > 150 and counts["right"] >= 5, counts


def test_every_kind_of_fault_is_noticed():
    case = options.Case("plot", "-w", ("--episode-window",), ["-w", "3"], is_right=False)
    with options.stage():
        assert options.outcome(case) == "wrongly accepted"
        assert options.outcome(case._replace(arguments=["-w", "0"], names=("--other",))).startswith(
            "obscure: ezv2-plot"
        )
        assert options.outcome(case._replace(arguments=["-w", "0"], is_right=True)).startswith("wrongly refused")
        assert options.outcome(case._replace(arguments=["-h"])).startswith("wrongly accepted")
