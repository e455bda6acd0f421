#!/usr/bin/env python3
"""Makes models.json: logits of the official code for tiny models that golden.json does not have.

    pip install torch==2.15.0 transformers==4.41.2 sentencepiece "numpy<2"
    python models.py CODEGEEX CHATGLM CHATGLM3

The arguments are folders with the publishers' files:
    CODEGEEX  codegeex_model.py of github.com/THUDM/CodeGeeX (codegeex/torch)
    CHATGLM   modeling_chatglm.py and what it imports, of THUDM/chatglm-6b (a copy: github.com/greensheng/chatglm-6b)
    CHATGLM3  the same of THUDM/chatglm3-6b (a copy: github.com/czk1997/chatglm3-copy)

All run on the CPU in f64 with weights that follow from their names, as in golden.json. Without a prefix, both ChatGLM give the
logits of golden.json; otherwise nothing is written.
"""

import importlib
import json
import pathlib
import sys
import types

import numpy
import torch

M64 = (1 << 64) - 1
IDS = [5, 9, 33, 7, 2, 59, 60]


def weight(name, shape):
    """The tensor `name`, as `tensor` in tests/common makes it."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & M64
    with numpy.errstate(over="ignore"):
        i = numpy.arange(1, int(numpy.prod(shape)) + 1, dtype=numpy.uint64)
        z = numpy.uint64(seed) + i * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z ^= z >> numpy.uint64(31)
    u = (z >> numpy.uint64(40)).astype(numpy.float64) / 2**24 - 0.5
    if len(shape) == 1:
        u = 1 + u / 2 if "norm" in name and name.endswith("weight") else u / 4
    return torch.from_numpy(u.reshape(shape))


def fill(model):
    """Gives `model` its weights; their names and shapes. A tied tensor has the name that comes first."""
    model.double().eval()
    shapes = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shapes[name] = list(parameter.shape)
            parameter.copy_(weight(name, shapes[name]))
    return shapes


def case(config, shapes, logits, **more):
    rows = [[round(x, 7) for x in row] for row in logits.tolist()]
    return {"config": config, "input_ids": IDS, **more, "shapes": shapes, "logits": rows}


def codegeex(folder):
    sys.path.insert(0, folder)
    import codegeex_model

    config = {"model_type": "codegeex", "num_layers": 2, "hidden_size": 32, "num_attention_heads": 4,
              "vocab_size": 64, "max_sequence_length": 64}
    model = codegeex_model.CodeGeeXModel(32, 2, 4, 64, 64)
    shapes = fill(model)
    for module in model.modules():
        # The alternative is a softmax in f32 that ends in f16.
        if hasattr(module, "attention_softmax_in_fp32"):
            module.attention_softmax_in_fp32 = False
    n = len(IDS)
    ids, positions = torch.tensor([IDS]), torch.arange(n)[None]
    hidden = torch.triu(torch.ones(1, 1, n, n), 1).bool()
    with torch.no_grad():
        # The model's own forward does this product in f16.
        out = model.language_model(ids, positions, hidden)
        logits = out @ model.language_model.embedding.word_embeddings.weight.T
    return case(config, shapes, logits[0])


def chatglm(folder, name, config):
    parent, package = str(pathlib.Path(folder).parent), pathlib.Path(folder).name
    sys.path.insert(0, parent)
    # The folders are no packages with an __init__, and their names no identifiers.
    module = types.ModuleType(name)
    module.__path__ = [folder]
    sys.modules[name] = module
    modeling = importlib.import_module(f"{name}.modeling_chatglm")
    Config = importlib.import_module(f"{name}.configuration_chatglm").ChatGLMConfig
    model = modeling.ChatGLMForConditionalGeneration(Config(**config, torch_dtype=torch.float64), empty_init=False)
    model.tie_weights()
    shapes = fill(model)
    # Tied by hand: the class leaves it to from_pretrained.
    if name == "chatglm1":
        model.lm_head.weight = model.transformer.word_embeddings.weight
        shapes.pop("lm_head.weight", None)
    with torch.no_grad():
        return shapes, model(torch.tensor([IDS]), use_cache=True).logits[0]


def main(codegeex_folder, v1_folder, v3_folder):
    cases = {"codegeex": codegeex(codegeex_folder)}
    v1 = {"vocab_size": 64, "hidden_size": 32, "num_layers": 3, "num_attention_heads": 4, "inner_hidden_size": 128,
          "bos_token_id": 60, "eos_token_id": 61, "mask_token_id": 58, "gmask_token_id": 59, "pad_token_id": 3,
          "max_sequence_length": 64}
    v3 = {"num_layers": 3, "padded_vocab_size": 64, "hidden_size": 32, "ffn_hidden_size": 48, "kv_channels": 8,
          "num_attention_heads": 4, "seq_length": 64, "rmsnorm": True, "add_qkv_bias": True, "add_bias_linear": False,
          "multi_query_attention": True, "multi_query_group_num": 2, "post_layer_norm": True,
          "layernorm_epsilon": 1e-05, "original_rope": True}
    for name, folder, config in [("chatglm1", v1_folder, v1), ("chatglm3", v3_folder, v3)]:
        for projection in [None, False, True]:
            if projection is None:
                more, suffix = {}, ""
            else:
                more = {"pre_seq_len": 5, "prefix_projection": projection}
                suffix = "_prefix_projection" if projection else "_prefix"
            full = {**config, **more}
            shapes, logits = chatglm(folder, name, full)
            cases[name + suffix] = case({"model_type": "chatglm", **full}, shapes, logits)
    golden = json.loads(pathlib.Path(__file__).parents[1].joinpath("golden.json").read_text())["cases"]
    for name, known in [("chatglm1", "chatglm_v1_gmask"), ("chatglm3", "chatglm3")]:
        ours, theirs = (numpy.array(case["logits"]) for case in [cases.pop(name), golden[known]])
        assert numpy.abs(ours - theirs).max() < 1e-5, name
    out = pathlib.Path(__file__).with_name("models.json")
    out.write_text(json.dumps({"versions": {"torch": torch.__version__, "transformers": "4.41.2"}, "cases": cases}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:4])
