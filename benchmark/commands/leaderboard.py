"""`chxbench leaderboard`: regenerate, check or show the leaderboard."""

from ..leaderboard.leaderboard import check_leaderboard, read_runs, write_leaderboard
from ..leaderboard.terminal import show_boards
from ..utils.progress import say
from ..utils.text import count
from ..utils.workspace import Workspace


def regenerate(workspace: Workspace) -> None:
    """Regenerate leaderboard.md and its figures from the records."""
    write_leaderboard(workspace)
    say(f"wrote {workspace.leaderboard}")


def check(workspace: Workspace) -> None:
    """Check records, figures and leaderboard.md without writing. Raises RecordError at the first difference."""
    checked = count(check_leaderboard(workspace), "record")
    say(f"{checked} and {workspace.leaderboard} match their scores")


def show(workspace: Workspace) -> None:
    """Print the rankings without writing."""
    show_boards(read_runs(workspace))
