"""Records of speeds that never were measured: the input of tests of records, leaderboard and comparisons."""

from chxbench.benchmark.records.speed_record import SpeedDescription

SPREAD = (0.98, 1.0, 1.02)  # of the rounds around their median


def around(median, spread=SPREAD):
    """Values of the rounds around a median."""
    return [median * factor for factor in spread]


def rounds_of(latency=12.3, inference=100.0, steps=31.4, loader=50_000.0, end_to_end=30.1, others=0.01, spread=SPREAD):
    """Rounds whose medians are these numbers; each may also be the list of its values."""
    found = {"latency": latency, "inference": inference, "steps": steps, "loader": loader, "end_to_end": end_to_end}
    values = {key: value if isinstance(value, list) else around(value, spread) for key, value in found.items()}
    rounds = [dict(zip(values, each, strict=True)) for each in zip(*values.values(), strict=True)]
    return [
        {**each, "inference": [each["inference"], None], "turn": number % 2 + 1, "others": others}
        for number, each in enumerate(rounds)
    ]


def speed_fields(name="ma", crop=128, rounds=None, **changes):
    """The description of a speed; `changes` replace keys, those of `setup` and `method` are added."""
    part = {"requested": 32, "batch_size": 32, "repetitions": 9, "peak_memory": 10**9}
    setup = {"device": "a CPU", "kind": "cpu", "cores": 2, "threads": 2, "processes": 1, "precision": "float32"}
    setup |= {
        "layout": "channels_last",
        "compiled": False,
        "torch": "2.8",
        "recipe": "quick",
        "size": 144,
        "crop": crop,
    }
    setup |= {"max_shift": 8, "batch_size": 32, "micro_batch": 0, "batch_norm": "auto", "optimizer": "adamw"}
    setup |= {"dataset": "phantom", "images": 1000, "batch_sizes": [32, 999], **changes.pop("setup", {})}
    method = {"name": name, "built_in": True, "source_sha256": "0" * 64, "options": {}, **changes.pop("method", {})}
    content = {
        "created": "2026-01-01T00:00:00+00:00",
        "command": f"chxbench speed --method {name}",
        "method": method,
        "setup": setup,
        "seconds": 1.0,
        "network": {"parameters": 42_500_000, "flops": 1_270_000_000},
        "latency": {"p95": 14.5, "p99": None, "repetitions": 50, "peak_memory": None},
        "inference": [part, {**part, "requested": 999, "batch_size": None, "repetitions": 0, "peak_memory": None}],
        "training": part,
        "rounds": rounds or rounds_of(),
        "shared_with": [],
        "baseline": {"method": "bsl", "rounds": rounds_of(inference=around(110.0))},
        "memory": "resident set of the process",
        "environment": {"versions": {"torch": "2.8"}, "code": {"commit": None, "dirty": None}},
        **changes,
    }
    return SpeedDescription.model_validate(content)
