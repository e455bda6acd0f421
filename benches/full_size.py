#!/usr/bin/env python3
"""Memory and load time of full-size models on random weights, through the official containers.

    full_size.py make chatglm-6b|glm-4-9b|glm-130b[:LAYERS] FOLDER     writes a checkpoint (13, 19, 4 + 3.6 per layer GB)
    full_size.py measure FOLDER --dtype int4 [--tokens N] [--glm target/release/glm]

`make` needs Python alone: the pickles are written by Python's own pickler, not by our code. `measure` runs
`glm logits` on N tokens (context N: a KV cache of N) and reports the peak of resident memory as the kernel counted it
for that process, mapped files included, and the time of the whole command.
"""

import argparse
import collections
import io
import json
import os
import pickle
import random
import resource
import subprocess
import sys
import time
import types
import zipfile

BLOCK_BYTES = 16 << 20


def f16_block():
    """Random f16 values of 0.008 to 0.03 in size, both signs: finite everywhere, like a trained weight's."""
    block = bytearray(random.Random(1).randbytes(BLOCK_BYTES))
    # The high byte: sign, exponent 2^-7 or 2^-6, two bits of mantissa.
    table = bytes((b & 0x83) | ((8 + (b >> 2 & 1)) << 2) for b in range(256))
    block[1::2] = bytes(block[1::2]).translate(table)
    return bytes(block)


class Storage:
    """Stands for `torch.HalfStorage` in a pickle."""

    def __init__(self, key, count):
        self.key, self.count = key, count


class Tensor:
    """Pickles as torch pickles a tensor."""

    def __init__(self, storage, shape):
        self.storage, self.shape = storage, shape

    def __reduce__(self):
        strides, step = [], 1
        for length in reversed(self.shape):
            strides.insert(0, step)
            step *= length
        args = (self.storage, 0, tuple(self.shape), tuple(strides), False, collections.OrderedDict())
        return rebuild, args


def torch_names():
    """Modules that give our stand-ins the names that torch's have."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2():
        raise AssertionError("written, never read")

    class HalfStorage:
        pass

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    HalfStorage.__module__, HalfStorage.__qualname__ = "torch", "HalfStorage"
    utils._rebuild_tensor_v2, torch.HalfStorage, torch._utils = _rebuild_tensor_v2, HalfStorage, utils
    sys.modules.update({"torch": torch, "torch._utils": utils})
    return _rebuild_tensor_v2, HalfStorage


rebuild, HalfStorage = torch_names()


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, Storage):
            return ("storage", HalfStorage, value.key, "cpu", value.count)
        return None


def elements(shape):
    count = 1
    for length in shape:
        count *= length
    return count


def write_torch(path, tensors, block, wrap=lambda state: state):
    """`tensors`: (name, shape) of f16."""
    state = collections.OrderedDict()
    for i, (name, shape) in enumerate(tensors):
        state[name] = Tensor(Storage(str(i), elements(shape)), shape)
    text = io.BytesIO()
    Pickler(text, protocol=2).dump(wrap(state))
    root = os.path.splitext(os.path.basename(path))[0]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.writestr(f"{root}/data.pkl", text.getvalue())
        archive.writestr(f"{root}/byteorder", "little")
        for i, (_, shape) in enumerate(tensors):
            entry = zipfile.ZipInfo(f"{root}/data/{i}")
            with archive.open(entry, "w", force_zip64=True) as out:
                write_bytes(out, 2 * elements(shape), block)
        archive.writestr(f"{root}/version", "3\n")


def write_bytes(out, count, block):
    while count > 0:
        count -= out.write(block[: min(count, len(block))])


def write_safetensors(path, tensors, block):
    header, at = {}, 0
    for name, shape in tensors:
        size = 2 * elements(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for _, shape in tensors:
            write_bytes(out, 2 * elements(shape), block)


def shard(tensors, count):
    """Consecutive parts of about equal size."""
    total, parts, done = sum(elements(s) for _, s in tensors), [[]], 0
    for name, shape in tensors:
        if done > total * len(parts) / count:
            parts.append([])
        parts[-1].append((name, shape))
        done += elements(shape)
    return parts


def linear(name, rows, cols, bias=True):
    return [(f"{name}.weight", [rows, cols])] + ([(f"{name}.bias", [rows])] if bias else [])


def norm(name, dim, bias=True):
    return [(f"{name}.weight", [dim])] + ([(f"{name}.bias", [dim])] if bias else [])


def first_generation(prefix, layers, hidden, up, down, ranks=1):
    """The layers of GLM-130B and ChatGLM-6B, as one of `ranks` shards has them."""
    tensors = []
    for i in range(layers):
        at = f"{prefix}layers.{i}."
        tensors += norm(at + "input_layernorm", hidden)
        tensors += linear(at + "attention.query_key_value", 3 * hidden // ranks, hidden)
        tensors += [(at + "attention.dense.weight", [hidden, hidden // ranks]), (at + "attention.dense.bias", [hidden])]
        tensors += norm(at + "post_attention_layernorm", hidden)
        tensors += linear(at + "mlp.dense_h_to_4h", up // ranks, hidden)
        tensors += [(at + "mlp.dense_4h_to_h.weight", [hidden, down // ranks]), (at + "mlp.dense_4h_to_h.bias", [hidden])]
    return tensors + norm(prefix + "final_layernorm", hidden)


def make_chatglm_6b(folder, block):
    hidden, vocab = 4096, 130528
    tensors = [("transformer.word_embeddings.weight", [vocab, hidden])]
    tensors += first_generation("transformer.", 28, hidden, 4 * hidden, 4 * hidden)
    tensors += [("lm_head.weight", [vocab, hidden])]
    write_json(folder, "config.json", {
        "model_type": "chatglm", "vocab_size": vocab, "hidden_size": hidden, "num_layers": 28,
        "num_attention_heads": 32, "inner_hidden_size": 4 * hidden, "layernorm_epsilon": 1e-5,
        "max_sequence_length": 2048, "position_encoding_2d": True, "torch_dtype": "float16",
        "bos_token_id": 130004, "eos_token_id": 130005, "mask_token_id": 130000, "gmask_token_id": 130001,
        "pad_token_id": 3,
    })
    write_shards(folder, shard(tensors, 8), "pytorch_model-{:05}-of-{:05}.bin", "pytorch_model.bin.index.json",
                 lambda path, part: write_torch(path, part, block))


def make_glm_4_9b(folder, block):
    hidden, vocab, ffn = 4096, 151552, 13696
    tensors = [("transformer.embedding.word_embeddings.weight", [vocab, hidden])]
    for i in range(40):
        at = f"transformer.encoder.layers.{i}."
        tensors += norm(at + "input_layernorm", hidden, False) + norm(at + "post_attention_layernorm", hidden, False)
        tensors += linear(at + "self_attention.query_key_value", 4608, hidden)
        tensors += linear(at + "self_attention.dense", hidden, hidden, False)
        tensors += linear(at + "mlp.dense_h_to_4h", 2 * ffn, hidden, False)
        tensors += linear(at + "mlp.dense_4h_to_h", hidden, ffn, False)
    tensors += norm("transformer.encoder.final_layernorm", hidden, False)
    tensors += [("transformer.output_layer.weight", [vocab, hidden])]
    write_json(folder, "config.json", {
        "model_type": "chatglm", "padded_vocab_size": vocab, "hidden_size": hidden, "num_layers": 40,
        "num_attention_heads": 32, "ffn_hidden_size": ffn, "kv_channels": 128, "multi_query_attention": True,
        "multi_query_group_num": 2, "layernorm_epsilon": 1.5625e-7, "seq_length": 131072, "rope_ratio": 500,
        "rmsnorm": True, "post_layer_norm": True, "original_rope": True, "add_qkv_bias": True,
        "add_bias_linear": False, "apply_residual_connection_post_layernorm": False, "torch_dtype": "float16",
        "eos_token_id": [151329, 151336, 151338], "pad_token_id": 151329,
    })
    write_shards(folder, shard(tensors, 10), "model-{:05}-of-{:05}.safetensors", "model.safetensors.index.json",
                 lambda path, part: write_safetensors(path, part, block))


def make_glm_130b(folder, block, layers):
    hidden, vocab, ffn, ranks = 12288, 150528, 32768, 8
    iteration = os.path.join(folder, "49300")
    os.makedirs(iteration)
    with open(os.path.join(folder, "latest"), "w") as out:
        out.write("49300")
    for rank in range(ranks):
        tensors = [("transformer.word_embeddings.weight", [vocab // ranks, hidden])]
        tensors += first_generation("transformer.", layers, hidden, 2 * ffn, ffn, ranks)
        write_torch(os.path.join(iteration, f"mp_rank_{rank:02}_model_states.pt"), tensors, block,
                    lambda state: {"module": state})


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w") as out:
        json.dump(value, out, indent=2)


def write_shards(folder, parts, name, index, write):
    files = {}
    for i, part in enumerate(parts):
        file = name.format(i + 1, len(parts))
        write(os.path.join(folder, file), part)
        files.update((tensor, file) for tensor, _ in part)
    write_json(folder, index, {"metadata": {"total_size": 0}, "weight_map": files})


def make(args):
    os.makedirs(args.folder)
    block, (model, _, layers) = f16_block(), args.model.partition(":")
    if model == "chatglm-6b":
        make_chatglm_6b(args.folder, block)
    elif model == "glm-4-9b":
        make_glm_4_9b(args.folder, block)
    elif model == "glm-130b":
        make_glm_130b(args.folder, block, int(layers or 1))
    else:
        sys.exit(f"no model {model}")


def measure(args):
    ids = ",".join(str(5 + i % 1000) for i in range(args.tokens))
    command = [args.glm, "logits", args.folder, "--dtype", args.dtype, "--ids", ids, "--json"]
    start = time.monotonic()
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode != 0:
        sys.exit("it failed")
    seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"{os.path.basename(args.folder)} {args.dtype}, {args.tokens} tokens: "
          f"peak {peak / 1e9:.2f} GB resident, {seconds:.1f} s in all")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("make")
    command.add_argument("model")
    command.add_argument("folder")
    command.set_defaults(run=make)
    command = commands.add_parser("measure")
    command.add_argument("folder")
    command.add_argument("--dtype", default="int4")
    command.add_argument("--tokens", type=int, default=2048)
    command.add_argument("--glm", default="target/release/glm")
    command.set_defaults(run=measure)
    args = parser.parse_args()
    args.run(args)


main()
