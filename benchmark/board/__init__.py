"""What leaderboard.md holds: which records may be ranked with each other, and the tables and figures of each board."""
