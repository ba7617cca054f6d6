"""Tables on a terminal, or in a file or pipe that has no width."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def wide_console(width: int) -> Console:
    """The terminal as it is; anything else as ``width`` columns: a table folded to 80 helps nobody there."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=width)


def print_table(table: Table) -> None:
    """Prints a table on stdout, unfolded where that is no terminal."""
    wide_console(200).print(table)
