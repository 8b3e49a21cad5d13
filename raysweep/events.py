"""What happens while something trains, told to whoever shows or records it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Progress = Callable[[dict[str, Any]], None]


def ignore(event: dict[str, Any]) -> None:
    """A progress that shows nothing."""
