"""What it costs to wake up and do nothing: `python -m tests.bench.sleeper PER_SECOND SECONDS`; prints JSON.

No sender that is woken for its probes can take less, whatever it is written in. How much that is decides the machine:
a virtual one leaves to its host for every sleep, and comes back to caches that others have used.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time

from probe.engine import PR_SET_TIMERSLACK
from probe.priority import come_first


def main() -> None:
    per_second, seconds = float(sys.argv[1]), float(sys.argv[2])
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    come_first(-20)
    step, wakes = 1.0 / per_second, round(per_second * seconds)
    begin, cpu = time.monotonic(), time.process_time()
    woken = 0
    for k in range(wakes):
        pause = begin + k * step - time.monotonic()
        if pause > 0:
            time.sleep(pause)
            woken += 1
    print(json.dumps({"woken": woken, "seconds": time.monotonic() - begin, "cpu_s": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
