"""What every test starts from, however the run itself was started."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# A run in the background of a shell ignores Ctrl-C, and so would every command that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Continuous integration tries the same examples each time, so that a red run is about the change; people's runs and
# their random examples go on looking for more.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
