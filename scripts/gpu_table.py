#!/usr/bin/env python3
"""One table of what scripts/gpu-check.sh measured: ours, the peer, their ratio, the share of the limit, the goal.

    gpu_table.py FOLDER [--small]     ops.jsonl, model-*.jsonl and peers.jsonl in it

With --small goals are left out: sizes are too small for them, and the peer may be another device.

Limits are the best that either side reached: bytes by the copies, operations by the products of the same type. Exit code 0
whatever the goals say: they are for H200, and a slow kernel is not a wrong one.
"""

import json
import re
import sys
from pathlib import Path

# Keys, what is held against the goal, the goal.
GOALS = [
    (r"matmul/.*/(bf16|f16|f32)", "ratio", 0.98),
    (r"matmul/m1/.*/int4.*", "share", 0.70),
    (r"attention/prefill/.*", "ratio", 0.60),
    (r"attention/decode/.*", "share", 0.75),
    (r"(copy|rms_norm|add_rms_norm|layer_norm|add_layer_norm|rope|glu|activation)/.*", "share", 0.85),
    (r"glm-4-9b/bf16/b1/.*/tg.*", "share", 0.75),
    (r"glm-4-9b/int4[^/]*/b1/.*/tg.*", "share", 0.50),
    (r"dispatch/.*", "above", 300e-9),
    (r"replay/.*", "seconds", 20e-6),
]


def lines(path):
    """The figures of a file; the last line may be cut off where its program was stopped."""
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            print(f"{path.name}: a line is cut off", file=sys.stderr)


def median(figure):
    return (figure or {}).get("seconds", {}).get("median")


def time(seconds):
    for unit, scale in (("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)):
        if seconds < 1000 * scale or unit == "s":
            return f"{seconds / scale:.3g} {unit}"


def shown(figure):
    if figure is None:
        return "-"
    if "skipped" in figure:
        return "skipped"
    if "tokens_per_second" in figure:
        return f"{figure['tokens_per_second']:.1f} tok/s"
    return time(median(figure))


def dtype(figure):
    """The type of the numbers that a figure computes with."""
    model = figure.get("model") or {}
    key = figure["key"].split("/")[-1]
    return model.get("activations") or (key if key in ("f32", "f16", "bf16") else "bf16")


class Limits:
    """The best that either side reached."""

    def __init__(self, ours, peers):
        figures = list(ours.values()) + list(peers.values())
        own = next((f["limits"] for f in ours.values() if f.get("limits")), {})
        copies = [f["gb_per_second"] * 1e9 for f in figures if f["key"].startswith("copy/") and "gb_per_second" in f]
        self.bytes = max([own.get("bytes_per_second", 0.0), *copies])
        self.peaks = dict(own.get("operations_per_second", {}))
        for f in figures:
            kind = f["key"].split("/")[-1]
            if f["key"].startswith("matmul/") and "gflop_per_second" in f and kind in ("f32", "f16", "bf16"):
                self.peaks[kind] = max(self.peaks.get(kind, 0.0), f["gflop_per_second"] * 1e9)

    def share(self, figure):
        if not figure.get("bytes") or not median(figure) or not self.bytes:
            return None
        least = figure["bytes"] / self.bytes
        peak = self.peaks.get(dtype(figure))
        if peak:
            least = max(least, figure["operations"] / peak)
        return least / median(figure)


def dense(key):
    """The key of the same work with dense weights."""
    return re.sub(r"(^matmul/.*/|^[^/]+/)(int[48][^/]*)", r"\1bf16", key)


def judge(key, ours, peer, ratio, share):
    """The goal in words, and whether it was reached."""
    for pattern, what, goal in GOALS:
        if not re.fullmatch(pattern, key):
            continue
        if what == "ratio":
            return f"≥ {goal:.2f} of the peer", None if ratio is None else ratio >= goal
        if what == "share":
            return f"≥ {100 * goal:.0f} % of the limit", None if share is None else share >= goal
        seconds = median(ours)
        if what == "above":
            if seconds is None or median(peer) is None:
                return f"≤ {time(goal)} above the driver", None
            return f"≤ {time(goal)} above the driver", seconds - median(peer) <= goal
        return f"≤ {time(goal)}", None if seconds is None else seconds <= goal
    return "", None


def main():
    folder, small = Path(sys.argv[1]), "--small" in sys.argv[2:]
    ours = {}
    for path in [folder / "ops.jsonl", *sorted(folder.glob("model-*.jsonl"))]:
        if path.is_file():
            ours |= {figure["key"]: figure for figure in lines(path)}
    peers = folder / "peers.jsonl"
    peers = {figure["key"]: figure for figure in lines(peers)} if peers.is_file() else {}
    limits = Limits(ours, peers)
    peaks = ", ".join(f"{kind} {peak / 1e12:.3g} TFLOP/s" for kind, peak in sorted(limits.peaks.items()))
    print(f"limits, the best that either side reached: {limits.bytes / 1e9:.0f} GB/s, {peaks}")
    head = ("test", "ours", "peer", "ours / peer", "of the limit", "goal (H200)", "reached")
    table, reached, missed, unknown = [head], 0, 0, 0
    for key, figure in ours.items():
        exact = peers.get(key)
        if exact and "skipped" not in exact:
            peer, mark = exact, ""
        else:
            peer, mark = peers.get(dense(key)), " (bf16)" if dense(key) != key else ""
        ratio = median(peer) / median(figure) if median(peer) and median(figure) else None
        share = limits.share(figure)
        goal, met = ("", None) if small else judge(key, figure, peer, ratio, share)
        reached, missed = reached + (met is True), missed + (met is False)
        unknown += bool(goal) and met is None
        name = f" {peer['peer'].split(' on ')[0]}" if median(peer) else ""
        table.append((
            key,
            shown(figure),
            shown(peer) + (mark + name if median(peer) else ""),
            "" if ratio is None else f"{ratio:.2f}",
            "" if share is None else f"{100 * share:.0f} %",
            goal,
            {True: "yes", False: "NO", None: "not measured" if goal else ""}[met],
        ))
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    for figure in ours.values():
        if "skipped" in figure:
            print(f"skipped: {figure['key']}: {figure['skipped']}")
    if small:
        print("\na trial of the script: these figures say nothing about speed")
    else:
        print(f"\ngoals: {reached} reached, {missed} missed, {unknown} not measured")


if __name__ == "__main__":
    main()
