"""A GLM decoder as an OpenVINO model on the CPU, random weights, for peers.py: built of OpenVINO's own operations in the form that
its exporters write, so that its plugin fuses what it fuses in theirs. int8 with a scale per row, int4 with one per 32 (both
symmetric), or bf16; embedding and head f16 or bf16; a stateful cache. All else is as OpenVINO has it by default: types of the
cache and of computing, and whether products round activations, which `about` tells."""

import numpy as np
import openvino as ov
from openvino import opset13 as op
from openvino.op.util import Variable, VariableInfo

from worker import CHUNK, Skip, matrices

GROUP = 32
DYNAMIC = -1


def constant(shape, kind, bits):
    """Random bits; of floats the sign and the mantissa, so that they are of 0.008 to 0.03 in size. OpenVINO copies them: it does not
    keep memory alive that it shares."""
    size = int(np.prod(shape)) * bits // 8
    block = np.random.default_rng(1).integers(0, 256, min(size, 1 << 20), dtype=np.uint8)
    if bits == 16:
        block[1::2] = block[1::2] & 0x83 | (0x20 if kind == ov.Type.f16 else 0x3C)
    return op.constant(ov.Tensor(np.resize(block, size), ov.Shape(shape), kind), shared_memory=False)


def floats(values):
    return op.constant(np.asarray(values, dtype=np.float32))


def integers(*values):
    return op.constant(np.asarray(values, dtype=np.int64))


def weight(n, k, dtype):
    """A matrix as exporters write it: what it is in memory, brought to floats."""
    if dtype == "bf16":
        return op.convert(constant([n, k], ov.Type.bf16, 16), "f32")
    if dtype == "int8":
        whole = op.convert(constant([n, k], ov.Type.i8, 8), "f16")
        scaled = op.multiply(whole, op.constant(np.full((n, 1), 1e-4, dtype=np.float16)))
        return op.convert(scaled, "f32")
    if dtype == "int4-g32":
        whole = op.convert(constant([n, k // GROUP, GROUP], ov.Type.i4, 4), "f16")
        scaled = op.multiply(whole, op.constant(np.full((n, k // GROUP, 1), 2e-3, dtype=np.float16)))
        return op.convert(op.reshape(scaled, integers(n, k), False), "f32")
    raise Skip(f"this script has no OpenVINO model with {dtype} weights")


def linear(x, n, k, dtype):
    return op.matmul(x, weight(n, k, dtype), False, True)


def norm(x, hidden):
    mean = op.reduce_mean(op.power(x, floats(2)), integers(-1), True)
    scaled = op.multiply(x, op.divide(floats(1), op.sqrt(op.add(mean, floats(1e-5)))))
    return op.multiply(scaled, floats(np.ones((1, 1, hidden))))


def turn(x, cos, sin, head_dim, rotary):
    """Element i and i + rotary/2 turned: the same work as GLM's pairs of neighbours, with the rows of q and k in another order."""
    part = lambda begin, end: op.slice(x, integers(begin), integers(end), integers(1), integers(3))
    whole, rest = (x, None) if rotary == head_dim else (part(0, rotary), part(rotary, head_dim))
    a, b = part(0, rotary // 2), part(rotary // 2, rotary)
    half = op.concat([op.multiply(b, floats(-1)), a], -1)
    turned = op.add(op.multiply(whole, cos), op.multiply(half, sin))
    return turned if rest is None else op.concat([turned, rest], -1)


def remembered(new, name, beam, s, batch, sinks):
    """What the cache had and `new`, which it keeps, for every head of the queries."""
    shape = ov.PartialShape([DYNAMIC, s["kv_heads"], DYNAMIC, s["head_dim"]])
    info = VariableInfo()
    info.data_shape, info.data_type, info.variable_id = shape, ov.Type.f32, name
    variable = Variable(info)
    empty = op.concat([batch, integers(s["kv_heads"], 0, s["head_dim"])], 0)
    before = op.read_value(op.broadcast(floats(0), empty), variable)
    whole = op.concat([op.gather(before, beam, op.constant(np.int64(0))), new], -2)
    sinks.append(op.assign(whole, variable))
    group = s["heads"] // s["kv_heads"]
    if group == 1:
        return whole
    repeated = op.multiply(op.unsqueeze(whole, integers(2)), floats(np.ones((1, 1, group, 1, 1))))
    return op.reshape(repeated, integers(0, s["heads"], -1, s["head_dim"]), True)


def build(s, dtype):
    ids = op.parameter([DYNAMIC, DYNAMIC], ov.Type.i64, name="ids")
    cosines, sines = (op.parameter([1, 1, DYNAMIC, s["rotary"]], ov.Type.f32, name=name) for name in ("cos", "sin"))
    mask = op.parameter([1, 1, DYNAMIC, DYNAMIC], ov.Type.f32, name="mask")
    beam = op.parameter([DYNAMIC], ov.Type.i32, name="beam")
    inputs, sinks = [ids, cosines, sines, mask, beam], []
    kind = ov.Type.bf16 if dtype == "bf16" else ov.Type.f16
    table = lambda: op.convert(constant([s["vocab"], s["hidden"]], kind, 16), "f32")
    embedding = table()
    x = op.gather(embedding, ids, integers(0))
    batch = op.gather(op.shape_of(ids, "i64"), integers(0), integers(0))
    heads, kv_heads, head_dim = s["heads"], s["kv_heads"], s["head_dim"]
    for i in range(s["layers"]):
        sizes = matrices(s)
        qkv = linear(norm(x, s["hidden"]), *sizes["qkv"], dtype)
        if s["bias"]:
            qkv = op.add(qkv, floats(np.full((1, 1, sizes["qkv"][0]), 0.01)))
        widths = integers(heads * head_dim, kv_heads * head_dim, kv_heads * head_dim)
        q, k, v = op.variadic_split(qkv, op.constant(np.int64(-1)), widths).outputs()
        split = lambda x, n: op.transpose(op.reshape(x, integers(0, 0, n, head_dim), True), integers(0, 2, 1, 3))
        q, k = (turn(split(x, n), cosines, sines, head_dim, s["rotary"]) for x, n in ((q, heads), (k, kv_heads)))
        k = remembered(k, f"k{i}", beam, s, batch, sinks)
        v = remembered(split(v, kv_heads), f"v{i}", beam, s, batch, sinks)
        out = op.scaled_dot_product_attention(q, k, v, mask, causal=False)
        out = op.reshape(op.transpose(out, integers(0, 2, 1, 3)), integers(0, 0, heads * head_dim), True)
        x = op.add(x, linear(out, *sizes["o"], dtype))
        up = linear(norm(x, s["hidden"]), *sizes["up"], dtype)
        gate, up = op.split(up, op.constant(np.int64(-1)), 2).outputs()
        x = op.add(x, linear(op.multiply(op.swish(gate), up), *sizes["down"], dtype))
    last = op.slice(norm(x, s["hidden"]), integers(-1), integers(2**31), integers(1), integers(1))
    logits = op.matmul(last, embedding if s["tied"] else table(), False, True)
    return ov.Model([op.result(logits)], sinks, inputs, "glm")


class Model:
    def __init__(self, s, dtype, threads, length):
        self.s = s
        core = ov.Core()
        hints = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        compiled = core.compile_model(build(s, dtype), "CPU", hints)
        self.request = compiled.create_infer_request()
        rates = 10000.0 ** (-np.arange(0, s["rotary"], 2) / s["rotary"])
        angles = np.tile(np.arange(length)[:, None] * rates, 2)[None, None]
        self.cos, self.sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        kinds = [node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ops()]
        fused = kinds.count("ScaledDotProductAttention") == s["layers"]
        told = ("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION", "DYNAMIC_QUANTIZATION_GROUP_SIZE")
        told = ", ".join(f"{name} {compiled.get_property(name)}" for name in told)
        attention = "fused with the cache" if fused else "NOT FUSED"
        self.about = f"OpenVINO {ov.__version__}, {dtype}, {threads} threads, {told}, attention {attention}"

    def start(self, depth):
        """A cache of OpenVINO is only ever emptied whole."""
        self.request.reset_state()
        self.at = 0
        while self.at < depth:
            self.step([1] * min(CHUNK, depth - self.at))

    def step(self, ids):
        end = self.at + len(ids)
        seen = np.arange(end)[None, :] <= np.arange(self.at, end)[:, None]
        inputs = {
            "ids": np.asarray([ids], dtype=np.int64),
            "cos": self.cos[:, :, self.at : end],
            "sin": self.sin[:, :, self.at : end],
            "mask": np.where(seen, 0, np.finfo(np.float32).min).astype(np.float32)[None, None],
            "beam": np.zeros(1, dtype=np.int32),
        }
        self.at = end
        self.request.infer(inputs)
        return int(self.request.get_output_tensor(0).data.argmax())
