from __future__ import annotations

import numpy as np
import pytest

from probe.session.intake import _ntp_difference
from probe.wire.stamp import ntp_from_unix_ns

NS = 1_000_000_000
T0 = 1_795_360_122 * NS


@pytest.mark.parametrize("inside", [1, 40, 999, 12_345, 999_999_999, NS, 17 * NS + 3])
@pytest.mark.parametrize("fraction", [0, 1, 123_456_789, 999_999_990])
def test_time_inside_a_reflector_is_known_to_the_nanosecond(inside: int, fraction: int) -> None:
    earlier = ntp_from_unix_ns(np.array([T0 + fraction]))
    later = ntp_from_unix_ns(np.array([T0 + fraction + inside]))
    assert abs(int(_ntp_difference(earlier, later)[0]) - inside) <= 1
    assert int(_ntp_difference(later, earlier)[0]) == 0
