#!/usr/bin/env python3
"""Our CPU back end beside other programs on the same shape with random weights, in turn: A B A B … in one call.

    peers.py --glm target/release/glm --threads 2                    # whatever peer is installed
    peers.py --peers openvino --dtype int4-g32 --rounds 5 --save out.json
    peers.py --llama-bench PATH --gguf FILE --dtype int4-g32         # a llama.cpp that you built, beside our int4-g32

Python's standard library is enough for this script; a peer's package is needed for the peer. README.md tells more.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

from worker import SHAPES, Skip

HERE = Path(__file__).resolve().parent
WORKERS = {"torch": "torch_model", "openvino": "openvino_model"}
# Formats that workers have, and one that only a program with a file of its own is compared with.
COMMON = ["bf16", "int8", "int4-g32"]
FORMATS = [*COMMON, "int4"]


class Ours:
    """`glm bench`, a process for each round, which warms up by itself."""

    def __init__(self, args, dtype, activations):
        self.name = f"glm, {activations} activations" if dtype != "bf16" else "glm"
        self.about = self.name
        self.command = [args.glm, "bench", "--shape", args.shape, "--dtype", dtype, "--activations", activations]
        self.command += ["-t", str(args.threads), "-d", str(args.depth), "-r", "1", "-q", "-o", "json"]
        self.command += ["--layers", str(args.layers)] if args.layers else []

    def measure(self, tests, depth):
        sizes = [word for test in ("pp", "tg") for word in ("-p" if test == "pp" else "-n", str(tests.get(test, 0)))]
        run = json.loads(called(self.command + sizes))["runs"][0]
        self.about = f"{self.name}: weights {run['model']['format']}, products of {run['model']['products']}, cache {run['model']['cache']}"
        seconds = {}
        for result in run["results"]:
            if "seconds" not in result:
                raise Skip(f"{result['key']}: {result.get('skipped', 'not measured')}")
            seconds[result["key"].split("/")[4][:2]] = result["seconds"]["median"]
        return seconds

    def close(self):
        pass


class Worker:
    """A peer that stays loaded in a process of its own."""

    def __init__(self, args, peer, dtype):
        self.name = peer
        asked = [args.shape, dtype, args.threads, args.depth + max(args.prompt, args.tokens), args.layers]
        # Idle threads of OpenMP sleep at once: they must take nothing from the other side.
        quiet = dict(os.environ, OMP_NUM_THREADS=str(args.threads), OMP_WAIT_POLICY="PASSIVE", KMP_BLOCKTIME="0")
        command = [sys.executable, str(HERE / "worker.py"), WORKERS[peer], json.dumps(asked)]
        errors = None if args.verbose else subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=quiet)
        self.about = self.answer()["ready"]

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Skip(f"its process ended with code {self.process.wait()}; --verbose shows what it wrote")
        said = json.loads(line)
        if "skip" in said:
            raise Skip(said["skip"])
        return said

    def measure(self, tests, depth):
        seconds = {}
        for test, n in tests.items():
            print(json.dumps({"test": test, "n": n, "depth": depth}), file=self.process.stdin, flush=True)
            seconds[test] = self.answer()["seconds"]
        return seconds

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Llama:
    """llama-bench of llama.cpp, a process for each round, which warms up by itself."""

    def __init__(self, args):
        self.name, self.about = "llama.cpp", "llama-bench"
        self.command = [*shlex.split(args.llama_bench), "-m", args.gguf, "-t", str(args.threads), "-r", "1", "-o", "json"]

    def measure(self, tests, depth):
        # Older ones have no -d.
        sizes = ["-p", str(tests.get("pp", 0)), "-n", str(tests.get("tg", 0))] + (["-d", str(depth)] if depth else [])
        seconds = {}
        for run in json.loads(called(self.command + sizes)):
            self.about = f"llama.cpp {run.get('build_commit')}, {run.get('model_type')}, cache {run.get('type_k')}"
            seconds["pp" if run["n_prompt"] else "tg"] = run["avg_ns"] / 1e9
        return seconds

    def close(self):
        pass


def called(command):
    """What a command writes."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as e:
        raise Skip(f"{command[0]}: {e.strerror}") from e
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason"]
        told = next((line for line in lines if line.startswith("error")), lines[-1])
        raise Skip(f"{Path(command[0]).name} ended with code {done.returncode}: {told}")
    return done.stdout


def spread(seconds, tokens):
    rates = sorted(tokens / s for s in seconds)
    return f"{statistics.median(rates):.1f} ({rates[0]:.1f} … {rates[-1]:.1f})"


def compare(args, sides):
    """Rounds of all tests, sides in turn; the seconds of each. Programs that are started anew warm up by themselves."""
    tests = {test: n for test, n in (("pp", args.prompt), ("tg", args.tokens)) if n}
    found = {f"{test}{n}": {side.name: [] for side in sides} for test, n in tests.items()}
    for side in sides:
        if isinstance(side, Worker):
            side.measure({**tests, "tg": 2}, 0)
    for round in range(1, args.rounds + 1):
        for side in sides:
            for test, seconds in side.measure(tests, args.depth).items():
                found[f"{test}{tests[test]}"][side.name].append(seconds)
                print(f"peers: round {round}, {side.name}, {test}: {tests[test] / seconds:.1f} tok/s", file=sys.stderr)
    return found


def row(test, ours, peer, dtype, found):
    """A line of the table: medians, and the median of the rounds' ratios, which a drift of the machine leaves alone."""
    tokens, a, b = int(test[2:]), found[test][ours], found[test][peer]
    rounds = statistics.median(y / x for x, y in zip(a, b))
    ratio = statistics.median(b) / statistics.median(a)
    return f"| {test} | {dtype} | {ours} | {spread(a, tokens)} | {peer} | {spread(b, tokens)} | {ratio:.2f} | {rounds:.2f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glm", default="target/release/glm", help="our program")
    parser.add_argument("--shape", default="glm-edge-1.5b", choices=sorted(SHAPES))
    parser.add_argument("--layers", type=int, help="only the first so many layers")
    parser.add_argument("--peers", default="torch,openvino", help="of torch, openvino; nothing for llama.cpp alone")
    parser.add_argument("--dtype", default=",".join(COMMON), help=f"of {', '.join(FORMATS)}; int4 only beside --llama-bench")
    parser.add_argument("--activations", default="f32,int8", help="classes of ours with int8 and int4 weights")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt; 0: none")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to decode; 0: none")
    parser.add_argument("--depth", type=int, default=0, help="tokens in the cache before")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--llama-bench", help="llama-bench of a llama.cpp that you built")
    parser.add_argument("--gguf", help="the model for it")
    parser.add_argument("--save", type=Path, help="write all times as JSON into this file")
    parser.add_argument("--verbose", action="store_true", help="show what peers write")
    args = parser.parse_args()
    if bool(args.llama_bench) != bool(args.gguf):
        parser.error("--llama-bench and --gguf go together")
    if args.llama_bench and "," in args.dtype:
        parser.error("--llama-bench: name the one --dtype that is like the file's")
    if not Path(args.glm).is_file():
        parser.error(f"{args.glm} is not there: cargo build --release -p glm, or --glm PATH")
    dtypes = [name for name in args.dtype.split(",") if name]
    peers = [name for name in args.peers.split(",") if name]
    for name, known in [(n, FORMATS) for n in dtypes] + [(n, WORKERS) for n in peers]:
        if name not in known:
            parser.error(f"{name} is not one of {', '.join(known)}")
    if peers and set(dtypes) - set(COMMON):
        parser.error("int4 has a scale per row, which no peer but a llama-bench is compared with: --peers ''")
    if not dtypes or not (peers or args.llama_bench):
        parser.error("name a --dtype, and one of --peers or --llama-bench")
    abouts, skipped, saved = [], [], []
    layers = f", {args.layers} layers" if args.layers else ""
    print(f"{args.shape}{layers}, random weights, {args.threads} threads, depth {args.depth}, {args.rounds} rounds in turn\n")
    print("| test | weights | ours | tok/s, median (least … most) | peer | tok/s | ours / peer | median of the rounds' ratios |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for dtype in dtypes:
        classes = ["f32"] if dtype == "bf16" else args.activations.split(",")
        makers = {peer: lambda peer=peer: Worker(args, peer, dtype) for peer in peers}
        if args.llama_bench:
            makers["llama.cpp"] = lambda: Llama(args)
        for peer, make in makers.items():
            opened = []
            try:
                print(f"peers: loading {peer}, {dtype}", file=sys.stderr)
                opened.append(make())
                ours = [Ours(args, dtype, name) for name in classes]
                found = compare(args, ours + opened)
            except Skip as e:
                skipped.append(f"SKIPPED: {peer}, {dtype}: {e}")
                print(skipped[-1], file=sys.stderr)
                continue
            finally:
                for side in opened:
                    side.close()
            abouts += [side.about for side in ours + opened if side.about not in abouts]
            for test in found:
                for side in ours:
                    print(row(test, side.name, peer, dtype, found), flush=True)
            saved.append({"dtype": dtype, "peer": peer, "about": [s.about for s in ours + opened], "seconds": found})
            if args.save:
                asked = {key: value for key, value in vars(args).items() if key != "save"}
                args.save.write_text(json.dumps({"asked": asked, "compared": saved}, indent=1) + "\n")
    print()
    print("\n".join([f"- {about}" for about in abouts] + skipped))
    # As with `glm`: 7 when nothing was measured.
    sys.exit(0 if saved else 7)


if __name__ == "__main__":
    main()
