"""A GLM decoder of plain PyTorch on the CPU, random weights, for peers.py: bf16 by F.linear (oneDNN); int8 with a scale per row and
int4 with one per 32 by the products that PyTorch has for such weights. The cache is bf16."""

import torch
import torch.nn.functional as F

from worker import CHUNK, Skip, matrices

GROUP = 32


def random(*shape):
    """Not zero anywhere: values do not matter to speed as long as they are ordinary. One block is repeated."""
    count = torch.Size(shape).numel()
    block = torch.empty(min(count, 1 << 20)).normal_(0, 0.02).to(torch.bfloat16)
    return block.repeat(-(-count // block.numel()))[:count].reshape(shape)


class Dense:
    def __init__(self, n, k):
        self.weight = random(n, k)

    def __call__(self, x):
        return F.linear(x, self.weight)


class Int8:
    def __init__(self, n, k):
        self.weight = torch.randint(-127, 128, (n, k), dtype=torch.int8)
        self.scales = torch.full((n,), 1e-4, dtype=torch.bfloat16)

    def __call__(self, x):
        return torch.ops.aten._weight_int8pack_mm(x, self.weight, self.scales)


class Int4:
    def __init__(self, n, k):
        weight = torch.randint(0, 16, (n, k), dtype=torch.int32)
        self.weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(weight, 1)
        self.scales = torch.full((k // GROUP, n, 2), 1e-3, dtype=torch.bfloat16)

    def __call__(self, x):
        return torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.weight, GROUP, self.scales)


LINEAR = {"bf16": Dense, "int8": Int8, "int4-g32": Int4}


class Layer:
    def __init__(self, s, linear, length):
        self.s = s
        for name, (n, k) in matrices(s).items():
            setattr(self, name, linear(n, k))
        self.bias = random(matrices(s)["qkv"][0]) if s["bias"] else None
        self.norms = [torch.ones(s["hidden"], dtype=torch.bfloat16) for _ in range(2)]
        self.cache = [torch.zeros(1, s["kv_heads"], length, s["head_dim"], dtype=torch.bfloat16) for _ in range(2)]

    def norm(self, x, i):
        return F.rms_norm(x, (self.s["hidden"],), self.norms[i], 1e-5)

    def forward(self, x, at, angles, mask):
        s, end = self.s, at + len(x)
        qkv = self.qkv(self.norm(x, 0))
        if self.bias is not None:
            qkv = qkv + self.bias
        heads = qkv.view(len(x), -1, s["head_dim"]).transpose(0, 1).unsqueeze(0)
        q, k, v = heads.split((s["heads"], s["kv_heads"], s["kv_heads"]), 1)
        for cache, new in zip(self.cache, (turn(k, angles), v)):
            cache[:, :, at:end] = new
        k, v = (cache[:, :, :end] for cache in self.cache)
        # A prompt from the start is causal; a token sees all.
        causal = at == 0 and len(x) > 1
        out = F.scaled_dot_product_attention(turn(q, angles), k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)
        x = x + self.o(out[0].transpose(0, 1).flatten(1))
        gate, up = self.up(self.norm(x, 1)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


def turn(x, angles):
    """Pairs of neighbours turned."""
    cos, sin = angles
    rotary = 2 * cos.shape[-1]
    a, b = x[..., :rotary].unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    return torch.cat((turned, x[..., rotary:]), -1)


class Model:
    def __init__(self, s, dtype, threads, length):
        if dtype not in LINEAR:
            raise Skip(f"PyTorch has no product with {dtype} weights")
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.s, self.at = s, 0
        try:
            self.layers = [Layer(s, LINEAR[dtype], length) for _ in range(s["layers"])]
            LINEAR[dtype](64, 64)(random(1, 64))
        except (AttributeError, RuntimeError) as e:
            raise Skip(f"this PyTorch lacks the product: {str(e).splitlines()[0]}") from e
        self.embedding = random(s["vocab"], s["hidden"])
        self.head = self.embedding if s["tied"] else random(s["vocab"], s["hidden"])
        self.final = torch.ones(s["hidden"], dtype=torch.bfloat16)
        rates = 10000.0 ** (-torch.arange(0, s["rotary"], 2) / s["rotary"])
        angles = torch.arange(length)[:, None] * rates
        self.cos, self.sin = angles.cos().to(torch.bfloat16), angles.sin().to(torch.bfloat16)
        self.about = f"PyTorch {torch.__version__}, {dtype}, {torch.get_num_threads()} threads"

    def start(self, depth):
        """What was in the cache before will do."""
        self.at = min(self.at, depth)
        while self.at < depth:
            self.step([1] * min(CHUNK, depth - self.at))

    def step(self, ids):
        end = self.at + len(ids)
        angles = self.cos[self.at : end], self.sin[self.at : end]
        mask = None
        if self.at and len(ids) > 1:
            mask = torch.arange(end) <= torch.arange(self.at, end)[:, None]
        x = F.embedding(torch.tensor(ids), self.embedding)
        for layer in self.layers:
            x = layer.forward(x, self.at, angles, mask)
        self.at = end
        last = F.rms_norm(x[-1:], (self.s["hidden"],), self.final, 1e-5)
        return int(F.linear(last, self.head).argmax())
