"""The machine's sleep: asked to wait for us where that can be (`logind`), noticed afterwards everywhere (`clocks`).

macOS would tell too (IORegisterForSystemPower), but only a thread with a run loop of its own; there it is noticed
afterwards. Others see a sleeping machine as one that fell silent, so that nothing is lost but a moment.
"""

from node.sleep.clocks import SleepClock
from node.sleep.logind import Logind, has_system_bus

__all__ = ["Logind", "SleepClock", "has_system_bus"]
