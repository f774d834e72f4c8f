"""No argument of the constructor is refused obscurely, accepted wrongly or refused wrongly."""

from __future__ import annotations

from tests.helpers.bad_arguments import count


def test_every_argument_times_every_value():
    counts, faults = count()
    assert faults == []
    assert counts["refused"] > 2_000 and counts["accepted"] > 200
