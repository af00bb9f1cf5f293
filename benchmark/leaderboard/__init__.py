"""Records to leaderboard.md: boards, tables, figures. No torch."""
