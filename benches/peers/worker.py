"""What a peer's process says and hears: one JSON document a line, so that the peer stays loaded between rounds.

First it says {"ready": WHAT IT IS} or {"skip": WHY}; then for each {"test": "pp" or "tg", "n": TOKENS, "depth": TOKENS BEFORE}
it answers {"seconds": S} or {"skip": WHY}. What libraries print goes to stderr.

    worker.py MODULE '["SHAPE", "DTYPE", THREADS, LENGTH OF THE CACHE, LAYERS or null]'

The module has `Model(shape, dtype, threads, length)` with `about`, `start(depth)`, which leaves so many tokens in its cache, and
`step(ids)`, which appends ids and gives the next one.
"""

import importlib
import json
import os
import sys
import time

# Shapes of published GLMs, as glm/src/shapes.rs has them.
SHAPES = {
    "glm-edge-1.5b": dict(layers=28, hidden=2048, heads=16, kv_heads=4, head_dim=128, rotary=128, ffn=6144, vocab=59264, bias=False, tied=True),
    "glm-edge-4b": dict(layers=40, hidden=3072, heads=24, kv_heads=6, head_dim=128, rotary=128, ffn=8192, vocab=59264, bias=False, tied=True),
    "chatglm3-6b": dict(layers=28, hidden=4096, heads=32, kv_heads=2, head_dim=128, rotary=64, ffn=13696, vocab=65024, bias=True, tied=False),
    "glm-4-9b": dict(layers=40, hidden=4096, heads=32, kv_heads=2, head_dim=128, rotary=64, ffn=13696, vocab=151552, bias=True, tied=False),
}

# The most tokens of one step.
CHUNK = 512


def matrices(s):
    """Names, output and input features of a layer's matrices."""
    heads = s["heads"] * s["head_dim"]
    return {
        "qkv": (heads + 2 * s["kv_heads"] * s["head_dim"], s["hidden"]),
        "o": (s["hidden"], heads),
        "up": (2 * s["ffn"], s["hidden"]),
        "down": (s["hidden"], s["ffn"]),
    }


class Skip(Exception):
    """There is no such figure, and why."""


def serve(module, asked):
    """Answers requests with the module's model."""
    shape, dtype, threads, length, layers = json.loads(asked)
    out, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(2, 1)

    def say(what):
        print(json.dumps(what), file=out, flush=True)

    try:
        s = dict(SHAPES[shape])
        s["layers"] = layers or s["layers"]
        model = importlib.import_module(module).Model(s, dtype, threads, length)
    except (Skip, ImportError) as e:
        return say({"skip": str(e)})
    say({"ready": model.about})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            say({"seconds": measure(model, **request)})
        except (Skip, RuntimeError, MemoryError) as e:
            say({"skip": (str(e).splitlines() or [type(e).__name__])[0]})


def measure(model, test, n, depth):
    """Seconds until the last id was here, as `glm bench` counts them."""
    model.start(depth)
    vocab = model.s["vocab"]
    ids = [i * 7919 % vocab for i in range(n)]
    begun = time.perf_counter()
    if test == "pp":
        for at in range(0, n, CHUNK):
            model.step(ids[at : at + CHUNK])
    else:
        token = 0
        for _ in range(n):
            token = model.step([token])
    return time.perf_counter() - begun


if __name__ == "__main__":
    # The module's `worker` is this one.
    sys.modules["worker"] = sys.modules["__main__"]
    serve(*sys.argv[1:])
