#!/usr/bin/env python3
"""Writes the GGUF vectors of this folder with llama.cpp's own Python package.

    pip install gguf==0.19.0 numpy
    python generate.py

    blocks.gguf   one tensor of random blocks per block format, and values of many types in the metadata
    blocks.f32    the values of these tensors one after the other, as `gguf.quants.dequantize` gives them
"""

import pathlib

import gguf
import numpy as np

HERE = pathlib.Path(__file__).parent
RNG = np.random.default_rng(7)
Type = gguf.GGMLQuantizationType
# Where the f16 scales and offsets of a block lie.
HALVES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
}


def blocks(kind, rows, cols):
    """Random bytes, with scales in the range of real weights."""
    per_block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = RNG.integers(0, 256, (rows, cols // per_block, size), dtype=np.uint8)
    for at in HALVES[kind]:
        scale = RNG.uniform(-0.02, 0.02, raw.shape[:2]).astype(np.float16)
        raw[..., at : at + 2] = scale[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


writer = gguf.GGUFWriter(HERE / "blocks.gguf", "glm4")
writer.add_name("blocks")
writer.add_block_count(1)
writer.add_float32("test.f32", 0.1)
writer.add_float64("test.f64", 0.1)
writer.add_int8("test.i8", -1)
writer.add_uint64("test.u64", 2**40)
writer.add_bool("test.flag", True)
writer.add_array("test.texts", ["a", "你好", ""])
writer.add_array("test.numbers", [1, -2, 3])
writer.add_custom_alignment(64)
values = []
for kind in HALVES:
    rows, cols = 2, 256 if kind.name.endswith("K") else 64
    raw = blocks(kind, rows, cols)
    writer.add_tensor(f"{kind.name.lower()}.weight", raw, raw_dtype=kind)
    values.append(gguf.quants.dequantize(raw, kind))
dense = RNG.normal(size=(3, 5)).astype(np.float32)
writer.add_tensor("f32.weight", dense)
writer.add_tensor("f16.weight", dense.astype(np.float16))
values += [dense, dense.astype(np.float16)]
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
np.concatenate([v.reshape(-1) for v in values]).astype("<f4").tofile(HERE / "blocks.f32")
