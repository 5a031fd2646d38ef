"""A process whose clock is wrong by CLOCK_AHEAD seconds: Python runs this before anything else of it.

`time.time` is the only wall clock that decides anything in the product (`fgrpo_secure.entropy`). TLS libraries look at
the machine's own for a certificate's dates, which stays right.
"""

import os
import time

_really, _ahead = time.time, float(os.environ.get("CLOCK_AHEAD", "0"))
time.time = lambda: _really() + _ahead
