"""Progress of long steps, on stderr: bars on a terminal, plain lines (for steps, not for bytes) anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cli.text import cell

if TYPE_CHECKING:
    from rich.progress import Progress


class ProgressBars:
    """Bars below each other, from entering it until leaving it."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._last_step = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def bar(self, label: str, total_bytes: int) -> Callable[[int], None]:
        """A new bar; what is returned takes the bytes that have been done since it was last called."""
        if not sys.stderr.isatty():
            return lambda count: None
        progress = self._progress = self._progress or _started_progress()
        task = progress.add_task(cell(label), total=total_bytes)
        return lambda count: progress.advance(task, count)

    def step(self, status: str) -> None:
        """Say what is being done now; said twice in a row, it shows once."""
        if not status or status == self._last_step:
            return
        self._last_step = status
        if self._progress is not None:
            self._progress.console.print(cell(status), markup=False, highlight=False)
        else:
            print(cell(status), file=sys.stderr)


def _started_progress() -> Progress:
    # Imported here: loading it takes longer than most verbs do in all.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    progress.start()
    return progress
