#!/usr/bin/env python3
"""What PyTorch reaches on the same device for the same work, for scripts/gpu-check.sh.

Reads the keys of `glm bench -o jsonl` files and measures a peer for each key that has one, as jsonl with the same keys:
matmul by cuBLASLt (F.linear), attention by the fastest back end of scaled_dot_product_attention, norms, rope and gates by
torch.compile, copies, launches by the driver itself and a graph of tiny operations, and whole models in bf16: plain torch, each
block compiled, a static KV cache, the whole step as one CUDA graph, random weights. Times are those of CUDA events around a
graph of launches that take turns with copies of their operands, as `glm bench` does it.

    gpu_peers.py OURS.jsonl... > peers.jsonl
    --device cpu     try the script itself; times mean nothing
    --seconds N      stop after so long; what is left is skipped
"""

import argparse
import contextlib
import ctypes
import json
import re
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

COLD_BYTES = 256 << 20
MOST_COPIES = 256
ROUNDS = 5
LEAST_SECONDS = 2e-3
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class Skip(Exception):
    """There is no peer, and why."""


class Bench:
    """Times work on one device."""

    def __init__(self, device):
        self.device = device
        self.cuda = device == "cuda"

    def sync(self):
        if self.cuda:
            torch.cuda.synchronize()

    def random(self, *shape, dtype=torch.float32):
        return torch.randn(*shape, dtype=torch.float32, device=self.device).to(dtype)

    def copies(self, make, size):
        """As many of what `make` gives as a cache does not hold."""
        count = min(MOST_COPIES, max(1, -(-COLD_BYTES // max(size, 1)))) if self.cuda else 1
        return [make() for _ in range(count)]

    def time(self, work, turns=1):
        """Seconds of `work(i)`, i counting calls: median, least, most, runs."""
        for i in range(2):
            work(i)
        self.sync()
        start = time.perf_counter()
        work(0)
        self.sync()
        one = max(time.perf_counter() - start, 1e-6)
        calls = min(MOST_COPIES, max(turns, int(LEAST_SECONDS / one) + 1))
        if not self.cuda:
            times = []
            for _ in range(ROUNDS):
                start = time.perf_counter()
                for i in range(calls):
                    work(i)
                times.append((time.perf_counter() - start) / calls)
            return spread(times)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for i in range(calls):
                work(i)
        return spread([self.between(graph.replay) / calls for _ in range(ROUNDS + 1)][1:])

    def between(self, work):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def spread(times):
    times = sorted(times)
    return {"median": times[len(times) // 2], "least": times[0], "most": times[-1], "runs": len(times)}


def matmul(bench, m, n, k, dtype):
    weights = bench.copies(lambda: bench.random(n, k, dtype=dtype) / 64, n * k * dtype.itemsize)
    x, outs = bench.random(m, k, dtype=dtype), {}

    def work(i):
        outs[0] = F.linear(x, weights[i % len(weights)])

    return bench.time(work, len(weights)), "F.linear"


def attention(bench, batch, tokens, slots, heads, kv_heads, head_dim, dtype):
    """The fastest of the back ends that take it."""
    size = 2 * batch * slots * kv_heads * head_dim * dtype.itemsize
    make = lambda: tuple(bench.random(batch, kv_heads, slots, head_dim, dtype=dtype) for _ in range(2))
    caches = bench.copies(make, size) if tokens == 1 else [make()]
    q = bench.random(batch, heads, tokens, head_dim, dtype=dtype)
    times, refused = {}, {}
    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
        if name == "MATH" and (times or tokens > 4096):
            continue

        def work(i):
            k, v = caches[i % len(caches)]
            with sdpa_kernel(getattr(SDPBackend, name)):
                F.scaled_dot_product_attention(q, k, v, is_causal=tokens > 1, enable_gqa=heads != kv_heads)

        try:
            times[name] = bench.time(work, len(caches))
        except RuntimeError as e:
            refused[name] = str(e).split("\n")[0]
    if not times:
        raise Skip(f"no back end takes it: {refused}")
    best = min(times, key=lambda name: times[name]["median"])
    return times[best], f"sdpa {best.lower()}"


def compiled(function):
    return torch.compile(function, dynamic=False)


def rows(bench, name, rows, cols, dtype):
    x, y = (bench.random(rows, cols, dtype=dtype) for _ in range(2))
    weight, bias = (bench.random(cols) for _ in range(2))

    def rms_norm(x, weight):
        x32 = x.float()
        return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-5) * weight).to(x.dtype)

    def add_rms_norm(x, y, weight):
        total = (x.float() + y.float()).to(x.dtype)
        return total, rms_norm(total, weight)

    def layer_norm(x, weight, bias):
        return F.layer_norm(x.float(), (cols,), weight, bias, 1e-5).to(x.dtype)

    def add_layer_norm(x, y, weight, bias):
        total = (x.float() + y.float()).to(x.dtype)
        return total, layer_norm(total, weight, bias)

    if name == "copy":
        return bench.time(lambda i: y.copy_(x)), "copy_"
    if name == "glu":
        x = bench.random(rows, 2 * cols, dtype=dtype)
        run, args = compiled(lambda x: F.silu(x[:, :cols]) * x[:, cols:]), (x,)
    elif name == "activation":
        run, args = compiled(lambda x: F.gelu(x, approximate="tanh")), (x,)
    else:
        run = compiled(locals()[name])
        args = (x, y) if name.startswith("add_") else (x,)
        args += (weight,) if name.endswith("rms_norm") else (weight, bias)
    return bench.time(lambda i: run(*args)), "torch.compile"


def turn(x, cos, sin, rotary):
    """Interleaved pairs of the first `rotary` columns of a head, turned; the rest as it is."""
    pairs = x[..., :rotary].unflatten(-1, (-1, 2)).float()
    a, b = pairs[..., 0], pairs[..., 1]
    turned = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    return turned.to(x.dtype)


def rope(bench, tokens, heads, head_dim, dtype):
    rotary = head_dim // 2
    x = bench.random(tokens, heads, head_dim, dtype=dtype)
    cos, sin = (torch.full((tokens, 1, rotary // 2), value, device=bench.device) for value in (0.8, 0.6))

    def work(x, cos, sin):
        x[..., :rotary] = turn(x, cos, sin, rotary)

    run = compiled(work)
    return bench.time(lambda i: run(x, cos, sin)), "torch.compile"


def raw_launch():
    """Host seconds of the driver's own launch of an empty kernel, the cost of calling through ctypes taken off."""
    cuda = ctypes.CDLL("libcuda.so.1")
    ptx = b".version 6.3\n.target sm_75\n.address_size 64\n.visible .entry empty() { ret; }\n\0"
    module, function, version = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int()
    torch.zeros(1, device="cuda")
    for code in (
        cuda.cuModuleLoadData(ctypes.byref(module), ptx),
        cuda.cuModuleGetFunction(ctypes.byref(function), module, b"empty"),
    ):
        if code:
            raise Skip(f"the driver refuses an empty kernel: {code}")
    one, zero, none = ctypes.c_uint(1), ctypes.c_uint(0), ctypes.c_void_p()
    launch = (function, one, one, one, one, one, one, zero, none, none, none)
    at = ctypes.byref(version)

    def each(call, *args):
        times = []
        for _ in range(50):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(320):
                call(*args)
            times.append((time.perf_counter() - start) / 320)
        return sorted(times)[25]

    seconds = each(cuda.cuLaunchKernel, *launch) - each(cuda.cuDriverGetVersion, at)
    return spread([max(seconds, 0.0)]), "cuLaunchKernel"


def replay(bench, count):
    x = bench.random(64)
    graph = torch.cuda.CUDAGraph()
    x + 1
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for _ in range(count):
            y = x + 1
    times = []
    for _ in range(50):
        torch.cuda.synchronize()
        start = time.perf_counter()
        graph.replay()
        times.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    return spread(times), f"CUDAGraph of {count} additions"


class Block(torch.nn.Module):
    """A layer of ChatGLM3-6B or GLM-4-9B."""

    def __init__(self, bench, s, batch, length):
        super().__init__()
        self.s = s
        hidden, head_dim, ffn = s["hidden"], s["head_dim"], s["ffn"]
        qkv = (s["heads"] + 2 * s["kv_heads"]) * head_dim

        def matrix(n, k):
            weight = torch.empty(n, k, dtype=torch.bfloat16, device=bench.device).normal_(0, 0.02)
            return torch.nn.Parameter(weight, requires_grad=False)

        self.qkv, self.qkv_bias = matrix(qkv, hidden), matrix(1, qkv)
        self.dense, self.up, self.down = matrix(hidden, s["heads"] * head_dim), matrix(2 * ffn, hidden), matrix(hidden, ffn)
        self.norms = torch.nn.Parameter(torch.ones(2, hidden, device=bench.device), requires_grad=False)
        for name in ("k", "v"):
            self.register_buffer(name, torch.zeros(batch, s["kv_heads"], length, head_dim, dtype=torch.bfloat16, device=bench.device))

    def norm(self, x, i):
        x32 = x.float()
        return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-5) * self.norms[i]).to(x.dtype)

    def forward(self, x, position, cos, sin, mask):
        s, (batch, tokens, _) = self.s, x.shape
        qkv = F.linear(self.norm(x, 0), self.qkv, self.qkv_bias[0]).unflatten(-1, (-1, s["head_dim"])).transpose(1, 2)
        q, k, v = qkv.split((s["heads"], s["kv_heads"], s["kv_heads"]), 1)
        rotary = s["rotary"]
        q, k = (torch.cat((turn(h, cos, sin, rotary), h[..., rotary:]), -1) for h in (q, k))
        self.k.index_copy_(2, position, k)
        self.v.index_copy_(2, position, v)
        if tokens > 1:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            out = F.scaled_dot_product_attention(q, self.k, self.v, attn_mask=mask, enable_gqa=True)
        x = x + F.linear(out.transpose(1, 2).flatten(2), self.dense)
        gate, up = F.linear(self.norm(x, 1), self.up).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.down)


SHAPES = {
    "chatglm3-6b": dict(layers=28, hidden=4096, heads=32, kv_heads=2, head_dim=128, rotary=64, ffn=13696, vocab=65024),
    "glm-4-9b": dict(layers=40, hidden=4096, heads=32, kv_heads=2, head_dim=128, rotary=64, ffn=13696, vocab=151552),
    "tiny": dict(layers=2, hidden=128, heads=4, kv_heads=2, head_dim=32, rotary=16, ffn=256, vocab=512),
}


class Model:
    """A whole model: one compiled block, called once per layer."""

    def __init__(self, bench, shape, batch, length):
        s, self.bench, self.length = SHAPES[shape], bench, length
        self.batch = batch
        self.blocks = [Block(bench, s, batch, length) for _ in range(s["layers"])]
        table = lambda: torch.empty(s["vocab"], s["hidden"], dtype=torch.bfloat16, device=bench.device).normal_(0, 0.02)
        self.embedding, self.head = table(), table()
        angles = torch.arange(length, device=bench.device)[:, None] * 10000.0 ** (
            -torch.arange(0, s["rotary"], 2, device=bench.device) / s["rotary"]
        )
        self.cos, self.sin = angles.cos(), angles.sin()
        self.slots = torch.arange(length, device=bench.device)
        self.block = torch.compile(Block.forward, dynamic=False)

    def forward(self, ids, position):
        x = F.embedding(ids, self.embedding)
        cos, sin = self.cos[position], self.sin[position]
        mask = (self.slots[None] <= position[-1]).expand(self.batch, 1, 1, self.length)
        for block in self.blocks:
            x = self.block(block, x, position, cos, sin, mask)
        return F.linear(x[:, -1], self.head).argmax(-1)

    def prefill(self, tokens):
        ids = torch.randint(0, self.embedding.shape[0], (self.batch, tokens), device=self.bench.device)
        position = torch.arange(tokens, device=self.bench.device)
        times = []
        for i in range(ROUNDS + 2):
            self.bench.sync()
            start = time.perf_counter()
            self.forward(ids, position).cpu()
            times.append(time.perf_counter() - start)
        return spread(times[2:])

    def decode(self, depth, tokens):
        ids = torch.zeros(self.batch, 1, dtype=torch.long, device=self.bench.device)
        position = torch.full((1,), depth, device=self.bench.device)
        step = lambda: self.forward(ids, position)
        for _ in range(2):
            step()
        if self.bench.cuda:
            self.bench.sync()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                chosen = self.forward(ids, position)

            def step():
                graph.replay()
                return chosen

        times = []
        for i in range(ROUNDS + 1):
            position.fill_(depth)
            self.bench.sync()
            start = time.perf_counter()
            for _ in range(tokens):
                out = step()
                ids.copy_(out[:, None])
                position.add_(1)
                out.cpu()
            times.append(time.perf_counter() - start)
        return spread(times[1:])


class Models:
    """The model of the last key, kept for the next one of the same shape, batch and length of the cache."""

    def __init__(self, bench):
        self.bench, self.made, self.model = bench, None, None

    def get(self, shape, batch, length):
        wanted = (shape, batch, length)
        if self.made != wanted:
            self.model = None
            if self.bench.cuda:
                torch.cuda.empty_cache()
            self.model, self.made = Model(self.bench, shape, batch, length), wanted
        return self.model


def measure(bench, models, key):
    """Times of the peer of `key`, what it is, and the tokens of a model's test."""
    number = lambda text: [int(n) for n in re.findall(r"\d+", text)]
    parts = key.split("/")
    if parts[0] == "matmul":
        if parts[4] not in DTYPES:
            raise Skip("torch has no product of this format to compare with")
        return *matmul(bench, *number("/".join(parts[1:4])), DTYPES[parts[4]]), None
    if parts[0] == "attention":
        sizes, dtype = number("/".join(parts[2:-1])), DTYPES[parts[-1]]
        if parts[1] == "prefill":
            n, heads, kv_heads, head_dim = sizes
            return *attention(bench, 1, n, n, heads, kv_heads, head_dim, dtype), None
        n, batch, heads, kv_heads, head_dim = sizes
        return *attention(bench, batch, 1, n, heads, kv_heads, head_dim, dtype), None
    if parts[0] == "rope":
        return *rope(bench, *number(parts[1]), DTYPES[parts[2]]), None
    if parts[0] in ("copy", "glu", "activation") or parts[0].endswith("_norm"):
        return *rows(bench, parts[0], *number(parts[1]), DTYPES[parts[2]]), None
    if parts[0] in ("dispatch", "replay") and not bench.cuda:
        raise Skip("only a GPU has queues and graphs")
    if parts[0] == "dispatch":
        return *raw_launch(), None
    if parts[0] == "replay":
        return *replay(bench, number(parts[1])[0]), None
    if parts[0] in SHAPES and len(parts) == 5:
        if parts[1] not in ("bf16", "stored"):
            raise Skip("the peer computes in bf16")
        batch, depth, tokens = (number(part)[0] for part in parts[2:5])
        if parts[4].startswith("tg"):
            model = models.get(parts[0], batch, -(-(depth + tokens) // 64) * 64)
            peer = "compiled blocks, CUDA graph" if bench.cuda else "compiled blocks"
            return model.decode(depth, tokens), peer, batch * tokens
        if depth:
            raise Skip("the peer has no prompts at a depth")
        model = models.get(parts[0], batch, -(-tokens // 64) * 64)
        return model.prefill(tokens), "compiled blocks", batch * tokens
    raise Skip("no peer")


def keys(files):
    seen = {}
    for file in files:
        for line in Path(file).read_text().splitlines():
            with contextlib.suppress(ValueError):
                figure = json.loads(line)
                if "seconds" in figure:
                    seen.setdefault(figure["key"], figure)
    # Models last, and those of one batch together: each is made once.
    whole = lambda key: key.split("/")[0] in SHAPES
    batch = lambda key: key.split("/")[2] if whole(key) else ""
    return dict(sorted(seen.items(), key=lambda item: (whole(item[0]), item[0].split("/")[0] if whole(item[0]) else "", batch(item[0]))))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", nargs="+")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--seconds", type=float, default=1e9)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} finds no CUDA device")
    torch.set_grad_enabled(False)
    torch._dynamo.config.recompile_limit = 64
    bench = Bench(args.device)
    models, start = Models(bench), time.monotonic()
    name = torch.cuda.get_device_name() if bench.cuda else "processor"
    for key, ours in keys(args.ours).items():
        figure = {"key": key, "device": args.device, "peer": f"torch {torch.__version__} on {name}"}
        try:
            if time.monotonic() - start > args.seconds:
                raise Skip("no time left")
            seconds, peer, tokens = measure(bench, models, key)
            figure |= {"seconds": seconds, "peer": peer}
            for amount, rate in (("bytes", "gb_per_second"), ("operations", "gflop_per_second")):
                if ours.get(amount) and seconds["median"] > 0:
                    figure |= {amount: ours[amount], rate: ours[amount] / seconds["median"] / 1e9}
            if tokens:
                figure |= {"tokens": tokens, "tokens_per_second": tokens / seconds["median"]}
        except Skip as e:
            figure["skipped"] = str(e)
        except (RuntimeError, torch.cuda.OutOfMemoryError) as e:
            figure["skipped"] = f"torch failed: {str(e).splitlines()[0] if str(e) else type(e).__name__}"
        print(json.dumps(figure), flush=True)
        print(f"peers: {key} {figure.get('skipped', figure.get('peer'))}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
