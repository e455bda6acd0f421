#!/usr/bin/env python3
"""How speed and memory grow: with sequences at a time, tokens in the cache, threads, context. Measures by `glm bench`, draws SVGs.

    curves.py --shape glm-edge-1.5b --dtype int4 [--activations int8] [--threads 2] [--label zen4] [--minutes 5] [--out docs/plots]
    curves.py --draw docs/plots/glm-edge-1.5b-int4-int8.json        # draws again what was measured

Writes NAME.json, which holds all that was measured and the limits of the same call, and NAME-*.svg beside it. In a plot, points are
medians and bars reach from the slowest to the fastest run; the dashed line is what the limits allow: bytes / bandwidth or operations /
peak, whichever takes longer. What fails, or what the time runs out for, is left out and named.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from plot import Plot

SCHEMA = "glm/curves/1"
# The parts in their order: shares of the time that they may take; what one leaves is for those after it.
SHARES = {"batch": 30, "depth": 25, "threads": 40, "memory": 5}
KEY = re.compile(r".*/b(\d+)/d(\d+)/(pp|tg)(\d+)(?:/t(\d+))?")


class Measuring:
    def __init__(self, args):
        self.args, self.left_out, self.parts = args, [], {}
        self.end = time.monotonic() + 60 * args.minutes
        self.common = ["--shape", args.shape, "--dtype", args.dtype, "--activations", args.activations]

    def lines(self, part, words):
        """The JSON lines that `glm` writes until it ends or the part's time does."""
        later = list(SHARES.values())[list(SHARES).index(part) :]
        seconds = max(1.0, (self.end - time.monotonic()) * SHARES[part] / sum(later))
        print(f"curves: {part}: glm {' '.join(words)}", file=sys.stderr)
        process = subprocess.Popen([self.args.glm, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, errors = process.communicate(timeout=seconds)
            told = [line for line in errors.splitlines() if line.startswith("error")] or [f"it ended with code {process.returncode}"]
            why = told[0] if process.returncode else None
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
            why = f"its {seconds:.0f} s were over"
        # The last line may have been cut off.
        for line in out.splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                pass
        if why:
            self.left_out.append(f"{part}: {why}")

    def bench(self, part, *words):
        """Measures one part; its runs, one for each number of threads, hold what all their figures share."""
        asked = ["bench", *self.common, *words, "-o", "jsonl", "-q", "-r", "1" if self.args.quick else "3"]
        runs = {}
        for figure in self.lines(part, asked):
            shared = {name: figure.pop(name) for name in ("device", "threads", "limits", "model")}
            runs.setdefault(shared["threads"], {**shared, "results": []})["results"].append(figure)
            if "skipped" in figure:
                self.left_out.append(f"{figure['key']}: {figure['skipped']}")
        self.parts[part] = list(runs.values())

    def memory(self, contexts):
        """What a model takes, by the rules that loading goes by."""
        found = []
        for context in contexts:
            for plan in self.lines("memory", ["plan", *self.common, "-c", str(context), "--json"]):
                found.append({name: plan[name] for name in ("context", "weights_bytes", "cache_bytes", "buffers_bytes", "needed_bytes")})
        self.parts["memory"] = found

    def run(self):
        quick, threads = self.args.quick, str(self.args.threads)
        n = "2" if quick else "16"
        self.bench("batch", "-b", "1,2" if quick else "1,2,4,8,16,32", "-p", "0", "-n", n, "-t", threads)
        depths = [0, 256] if quick else [0, 1024, 2048, 4096, 8192, 16384]
        context = ["--context", str(depths[-1] + int(n)), "--random-cache"]
        self.bench("depth", "-d", ",".join(map(str, depths)), "-p", "0", "-n", n, "-t", threads, *context)
        # Most threads first: they are the fastest.
        counts = sorted({1, *(2**i for i in range(1, 10) if 2**i < self.args.threads), self.args.threads}, reverse=True)
        self.bench("threads", "-p", "32" if quick else "128", "-n", n, "-t", ",".join(map(str, counts)))
        self.memory([512, 8192] if quick else [512, 1024, 2048, 4096, 8192])


def measure(args):
    begun, measuring = time.monotonic(), Measuring(args)
    measuring.run()
    return {
        "schema": SCHEMA,
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.monotonic() - begun),
        "cpu": cpu(),
        "asked": {name: getattr(args, name) for name in ("shape", "dtype", "activations", "threads", "quick")},
        "parts": measuring.parts,
        "left_out": measuring.left_out,
    }


def cpu():
    """The processor's name, where the system tells it in a file."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        return found and found[1]
    except OSError:
        return None


def rate(figure):
    """Tokens per second: slowest, median and fastest, and what the limits of the run allow: the figure has its share of it."""
    tokens, seconds = figure["tokens"], figure["seconds"]
    median = tokens / seconds["median"]
    return [tokens / seconds["most"], median, tokens / seconds["least"], median / figure["share"]]


def points(runs, test, axis):
    """`(x, rates)` of all figures of a test; `axis` names what x is: b, d, p or t of the key."""
    found = []
    for run in runs:
        for figure in run["results"]:
            key = KEY.fullmatch(figure["key"])
            if key and "seconds" in figure and key[3] == test:
                x = {"b": key[1], "d": key[2], "t": run["threads"]}[axis]
                found.append((int(x), rate(figure)))
    return sorted(found)


def draw(document, folder, name):
    asked, parts = document["asked"], document["parts"]
    what = f"{asked['shape']}, {asked['dtype']} weights, {asked['activations']} activations"
    where = f"{document['cpu'] or 'unknown processor'}, {document['date']}"
    cores = f"{asked['threads']} threads"
    plots = []

    def speed(part, axis, test, title, x_label, log):
        found = points(parts.get(part, []), test, axis)
        if len(found) < 2:
            print(f"LEFT OUT: {name}-{title.replace(' ', '-')}: {len(found)} points", file=sys.stderr)
            return
        about = where if part == "threads" else f"{where}, {cores}"
        plot = Plot(f"{what}: {title}", about, x_label, "tokens per second", log)
        plot.line("what the limits allow", [(x, r[3]) for x, r in found], dashed=True)
        plot.line("measured", [(x, r[1]) for x, r in found], bars=[(r[0], r[2]) for _, r in found])
        plots.append((title.replace(" ", "-"), plot))

    speed("batch", "b", "tg", "decode by batch", "sequences at a time", True)
    speed("depth", "d", "tg", "decode by depth", "tokens in the cache", False)
    speed("threads", "t", "tg", "decode by threads", "threads", True)
    speed("threads", "t", "pp", "prefill by threads", "threads", True)
    plans = parts.get("memory", [])
    if len(plans) > 1:
        plot = Plot(f"{what}: memory by context", "one sequence: planned by `glm plan`, allocated by `glm bench`", "tokens of context", "GB", False)
        planned = [(p["context"], p["needed_bytes"] / 1e9) for p in plans]
        # Models of one sequence; those of a part differ in threads alone.
        models = [run["model"] for part in ("threads", "depth") for run in parts.get(part, [])[:1]]
        allocated = [(model["context"], sum(model["footprint_bytes"].values()) / 1e9) for model in models]
        # Weights, and the cache's bytes of a token for each.
        first, last = plans[0], plans[-1]
        slot = (last["cache_bytes"] - first["cache_bytes"]) / (last["context"] - first["context"])
        ends = [0, max(x for x, _ in planned + allocated)]
        plot.line("weights + cache", [(x, (first["weights_bytes"] + slot * x) / 1e9) for x in ends], dashed=True)
        plot.line("planned in all", planned)
        if allocated:
            plot.line("allocated in all", sorted(allocated))
        plot.line("KV cache", [(p["context"], p["cache_bytes"] / 1e9) for p in plans])
        plots.append(("memory-by-context", plot))
    for part, plot in plots:
        path = folder / f"{name}-{part}.svg"
        path.write_text(plot.svg(), encoding="utf-8")
        print(path)
    return bool(plots)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glm", default="target/release/glm", help="our program")
    parser.add_argument("--shape", default="glm-edge-1.5b")
    parser.add_argument("--dtype", default="int4")
    parser.add_argument("--activations", default="f32", choices=("f32", "int8"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--label", help="added to the names of the files, such as that of the machine")
    parser.add_argument("--quick", action="store_true", help="few and short tests: tries the script, is no measurement")
    parser.add_argument("--minutes", type=float, default=5, help="for all of it; what does not fit is left out")
    parser.add_argument("--out", type=Path, default=Path("docs/plots"))
    parser.add_argument("--draw", type=Path, nargs="+", metavar="FILE", help="draw what these files hold")
    args = parser.parse_args()
    drawn = False
    for file in args.draw or []:
        document = json.loads(file.read_text(encoding="utf-8"))
        if document.get("schema") != SCHEMA:
            parser.error(f"{file}: its schema is {document.get('schema')}, not {SCHEMA}")
        drawn |= draw(document, file.parent, file.stem)
    if not args.draw:
        if not Path(args.glm).is_file():
            parser.error(f"{args.glm} is not there: cargo build --release -p glm, or --glm PATH")
        args.out.mkdir(parents=True, exist_ok=True)
        words = [args.shape, args.dtype, args.activations, args.label]
        document, name = measure(args), "-".join(filter(None, words))
        file = args.out / f"{name}.json"
        file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(file)
        drawn = draw(document, args.out, name)
        for what in document["left_out"]:
            print(f"LEFT OUT: {what}", file=sys.stderr)
    # As with `glm`: 7 when nothing was measured.
    sys.exit(0 if drawn else 7)


if __name__ == "__main__":
    main()
