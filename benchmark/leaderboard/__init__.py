"""From records to leaderboard.md: boards, tables, plots. No torch."""
