"""`chxbench leaderboard`: regenerate, check or show the leaderboard."""

from ..leaderboard.leaderboard import check_leaderboard, read_runs, write_leaderboard
from ..leaderboard.terminal import show_boards
from ..utils.progress import say
from ..utils.workspace import Workspace


def regenerate(workspace: Workspace) -> None:
    """Regenerate leaderboard.md and its figures from the records."""
    write_leaderboard(workspace)
    say(f"wrote {workspace.leaderboard}")


def check(workspace: Workspace) -> None:
    """Check records, figures and leaderboard.md, changing nothing. Raises RecordError at the first difference."""
    count = check_leaderboard(workspace)
    say(f"{count} records and {workspace.leaderboard} agree with their scores")


def show(workspace: Workspace) -> None:
    """Print the rankings, changing nothing."""
    show_boards(read_runs(workspace))
