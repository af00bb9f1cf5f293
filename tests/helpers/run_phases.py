"""Which part of a run took how long, from its log."""

from datetime import datetime
from itertools import pairwise


def phases_of(entries):
    """Return the seconds of each phase of a run, by name, from the entries of its log (see utils/run_log.py)."""
    marks = [(_phase(entry), datetime.fromisoformat(entry["time"])) for entry in entries if _phase(entry)]
    return {phase: (end - begin).total_seconds() for (phase, begin), (_, end) in pairwise(marks)}


def _phase(entry):
    """Return the name of the phase that begins with an entry; None if it is within one."""
    names = {"started": "rehearsal, decoding", "scoring": "scores, intervals, heatmaps, figures", "finished": "end"}
    if entry["event"] == "stage":
        return f"stage {entry['stage']} ({entry['name']})"
    return names.get(entry["event"])
