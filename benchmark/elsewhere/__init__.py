"""Scores that were computed elsewhere: from somebody's file to a record."""
