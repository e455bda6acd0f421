#!/usr/bin/env python3
"""Makes the tokenizer vectors of this folder with the Python originals.

    pip install sentencepiece==0.2.3 tiktoken==0.14.0 tokenizers regex protobuf
    python generate.py

Trains four small vocabularies on a corpus that is made here, encodes the texts below with each, and writes

    bpe.model      SentencePiece BPE as ChatGLM2/3 have it: identity, byte fallback, split digits, spaces kept
    unigram.model  SentencePiece unigram with a table of replacements, user-defined pieces and no bytes
    ice.model      SentencePiece BPE as ChatGLM-6B's: to it, its Python code appends pieces
    suffix.model   SentencePiece unigram with byte fallback, the space after the word, and unused pieces
    unused.model   SentencePiece BPE with unused pieces: they merge, and are split again
    ranks.txt      `base64 rank`, for GLM-4's rule of words
    vocab.json, merges.txt   GPT-2's format
    vectors.json   the texts, and what the originals make of them
"""

import base64
import io
import json
import os
import pathlib
import random

import regex
import sentencepiece
import tiktoken
import tokenizers
from sentencepiece.sentencepiece_model_pb2 import ModelProto

HERE = pathlib.Path(__file__).parent
RNG = random.Random(20)

GLM4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

WORDS = (
    "the a of to and in is it you that he was for on are with as his they be at one have this from or had by hot "
    "word but what some we can out other were all there when up use your how said an each she which do their time if "
    "will way about many then them would write like so these her long make thing see him two has look more day could "
    "go come did my sound no most number who over know water than call first people may down side been now find "
    "def return print import class self None True lambda yield while for range len str int float don't we'll I've "
    "Übung naïve façade señor привет мир как дела こんにちは ありがとう 안녕 하세요"
).split()
CHARACTERS = "你好世界今天天气怎么样的一是不了人我在有他这中大来上个国问答说们为子和地出道也时年得就那要下以生会"

REPEATED = "ha la no 的 def 1 你好 ab aa 0".split()

MARKS = "<s> </s> <unk> <0x0A> <0xE4> [gMASK] [MASK] <|user|> <sop> sop <n> <|tab|> <|blank_4|> <|endoftext|>".split()

FIXED = [
    "", " ", "  ", "\n", "\t", "\r\n", "a", " a", "a ", "▁", "▁▁a", "Hello world", "Hello  world ", "你好", "你好，世界。",
    "  a\tb", "😀", "👨‍👩‍👧‍👦 family", "🇨🇳", "👍🏽", "e\u0301 é", "ae\u0301\u0302b", "ﬁne ﬂow", "ＡＢＣ１２３", "①②½Ⅷ", "ﷺ", "㍿", "ｶﾞ", "\u3000x\u00a0y\u200bz",
    "\ufeffbom", "\x00", "a\x00b", "\x1c\x7f\x85", "\u2028\u2029", "12345 67", "3.14159", "१२३", "I'LL we'Ve don'ſ 'S's",
    "def main():\n    print('hello world')\t# greeting", "[Round 1]\n\n问：你好\n\n答：", "\n```c++\n#include <iostream>",
    "x" * 50, "ab" * 30, " " * 79, " " * 80 + "x", "x" + " " * 163 + "y", "\n" * 7 + "x", " \n \n  x", "!!!\r\n\n?", "ไทย ไม่มี", "हिन्दी भाषा",
    "\U0010ffff\U000e0001", "<<n>><|blank_2|", "<|blank_81|><|blank_1|>", "unknown: ꙮ ꙮꙮ x", "aaaaaaaaaaaaaaaaaaa",
    "<n>a<n><n>a", "的a的aa的", "Жba", "<s>[gMASK]<sop>你好</s>", "don't DON'T", "tail\ufffd", "\u00ad\u200d", "K Å ſ ß ẞ İ ı", "ǅ ʰ ª º ⅷ",
]


def sentence():
    words = []
    for _ in range(RNG.randrange(3, 14)):
        kind = RNG.random()
        if kind < 0.6:
            words.append(RNG.choice(WORDS))
        elif kind < 0.85:
            words.append("".join(RNG.choice(CHARACTERS) for _ in range(RNG.randrange(1, 6))))
        else:
            words.append(str(RNG.randrange(300)))
    return RNG.choice([" ", " ", ", ", "，"]).join(words) + RNG.choice([".", "。", "?", "!", ""])


def text():
    kind, n = RNG.random(), RNG.choice([1, 2, 3, 5, 8, 13])
    if kind < 0.3:
        return sentence()
    if kind < 0.5:
        return RNG.choice(["", " ", "\n"]).join(RNG.choice(WORDS + MARKS + list(CHARACTERS)) for _ in range(n))
    if kind < 0.6:
        return "".join(RNG.choice(REPEATED) * RNG.randrange(1, 16) for _ in range(n // 2 + 1))
    if kind < 0.8:
        some = "ab A1 \t\n\r 的你，。'’sSlL.!e\u0301ß😀\u200d▁<n>|२अĀ"
        return "".join(RNG.choice(some) for _ in range(2 * n))
    code_points = []
    while len(code_points) < n:
        c = RNG.choice([RNG.randrange(0x80), RNG.randrange(0x800), RNG.randrange(0x10000), RNG.randrange(0x110000)])
        if not 0xD800 <= c < 0xE000:
            code_points.append(c)
    return "".join(map(chr, code_points))


def train(name, corpus, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=model, num_threads=1, minloglevel=2, **options
    )
    (HERE / name).write_bytes(model.getvalue())
    return model.getvalue()


def alter(name, model, unused=slice(0), more=lambda proto: {}):
    """Makes pieces unused, and appends pieces of text."""
    proto = ModelProto.FromString(model)
    for piece in proto.pieces[unused]:
        piece.type = ModelProto.SentencePiece.UNUSED
    for piece, score in more({piece.piece: piece.score for piece in proto.pieces}).items():
        proto.pieces.add(piece=piece, score=score)
    (HERE / name).write_bytes(proto.SerializeToString())
    return proto.SerializeToString()


def replacements():
    """A table of the kind of NFKC, small: full-width, ligatures, compositions, white space, deletions."""
    rules = {(0xFF01 + i,): (0x21 + i,) for i in range(94)}
    rules |= {(0xFB01,): (0x66, 0x69), (0xFB02,): (0x66, 0x6C), (0xFDFA,): tuple(map(ord, "صلى الله عليه وسلم"))}
    rules |= {(0x65, 0x301): (0xE9,), (0x61, 0x308): (0xE4,), (0x30AB, 0x3099): (0x30AC,), (0x65, 0x301, 0x302): (0x78,)}
    rules |= {(c,): (0x20,) for c in (0x9, 0xA, 0xD, 0xA0, 0x3000, 0x2028)}
    rules |= {(c,): () for c in (0x200B, 0xAD, 0xFEFF, 0x1C)}
    return "".join(f"{' '.join(f'{c:X}' for c in a)}\t{' '.join(f'{c:X}' for c in b)}\n" for a, b in rules.items())


class Ice:
    """What the Python code of ChatGLM-6B does around its model."""

    def __init__(self, model):
        proto = ModelProto.FromString(model)
        kinds = ModelProto.SentencePiece
        specials = ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"]
        for name in specials:
            proto.pieces.add(piece=name, score=0, type=kinds.CONTROL)
        for name in ["<|tab|>"] + [f"<|blank_{n}|>" for n in range(2, 81)]:
            proto.pieces.add(piece=name, score=0, type=kinds.USER_DEFINED)
        for value in range(256):
            proto.pieces.add(piece=f"<0x{value:02X}>", score=0, type=kinds.BYTE)
        proto.trainer_spec.byte_fallback = True
        model = proto.SerializeToString()
        self.sp = sentencepiece.SentencePieceProcessor(model_proto=model)

    def encode(self, text, continued=False):
        text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
        for n in range(80, 1, -1):
            text = text.replace(" " * n, f"<|blank_{n}|>")
        ids = self.sp.encode("<n>" + text if continued else text)
        return ids[2:] if continued else ids

    def decode(self, ids):
        text = self.sp.decode(ids).replace("<n>", "\n").replace("<|tab|>", "\t")
        for n in range(2, 81):
            text = text.replace(f"<|blank_{n}|>", " " * n)
        return text


def train_byte_pairs(corpus, pattern, merges):
    """Byte-pair encoding by its definition: the rules in order, as pairs of bytes."""
    words = [[bytes([b]) for b in word.encode()] for line in corpus for word in regex.findall(pattern, line)]
    rules = []
    for _ in range(merges):
        counts = {}
        for word in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(counts, key=lambda pair: (counts[pair], pair))
        rules.append(best)
        for word in words:
            at = 0
            while at + 1 < len(word):
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = [word[at] + word[at + 1]]
                at += 1
    return rules


def alphabet():
    """GPT-2's character for each byte."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = iter(range(0x100, 0x200))
    return {b: chr(b if b in shown else next(rest)) for b in range(256)}


def main():
    # Repetitions make pieces of which one text has several equally good cuts.
    repeated = ["".join(RNG.choice(REPEATED) * RNG.randrange(1, 6) for _ in range(5)) for _ in range(300)]
    corpus = [sentence() for _ in range(1200)] + repeated
    texts = FIXED + [text() for _ in range(240)]
    vectors = {"texts": texts}

    keep_spaces = dict(remove_extra_whitespaces=False, allow_whitespace_only_pieces=True)
    os.chdir(HERE)  # a model file keeps the path that it was trained with
    table = pathlib.Path("table.tsv")
    table.write_text(replacements())
    custom = dict(normalization_rule_tsv=str(table))
    models = {
        "bpe": train(
            "bpe.model", corpus, model_type="bpe", vocab_size=700, byte_fallback=True, split_digits=True,
            normalization_rule_name="identity", character_coverage=0.99, **keep_spaces,
        ),
        "unigram": train(
            "unigram.model", corpus, model_type="unigram", vocab_size=400, character_coverage=0.99,
            user_defined_symbols=["<n>", "<n><n>", "的"], control_symbols=["[gMASK]"], **custom,
        ),
        "suffix": train(
            "suffix.model", corpus, model_type="unigram", vocab_size=600, character_coverage=0.99, byte_fallback=True,
            treat_whitespace_as_suffix=True, normalization_rule_name="identity",
        ),
        "ice": train(
            "ice.model", corpus, model_type="bpe", vocab_size=350, character_coverage=0.99, pad_id=3,
            user_defined_symbols=["<n>"], **custom,
        ),
    }
    # No training makes pieces that overlap user-defined ones.
    overlap = lambda scores: {"<n>a": 0, "的a": scores["a"] - 0.05, "a的": scores["a"] - 0.15}
    # Of "Жba", a cut with an unknown character would be better, were that no worse than the worst piece.
    unknown = lambda scores: {"Жb": min(scores.values()), "ba": -0.5}
    both = lambda scores: overlap(scores) | unknown(scores)
    models["unigram"] = alter("unigram.model", models["unigram"], more=both)
    models["suffix"] = alter("suffix.model", models["suffix"], unused=slice(262, None, 7))
    models["unused"] = alter("unused.model", models["ice"], unused=slice(5, None, 6), more=overlap)
    table.unlink()
    for name in ["bpe", "unigram", "suffix", "unused"]:
        sp = sentencepiece.SentencePieceProcessor(model_proto=models[name])
        ids = [sp.encode(t) for t in texts]
        random_ids = [[RNG.randrange(sp.vocab_size()) for _ in range(RNG.randrange(9))] for _ in range(60)]
        # The original replaces the bytes before and after a control piece apart; we do not.
        random_ids = [[i for i in r if not sp.is_control(i)] for r in random_ids]
        vectors[name] = {
            "vocab_size": sp.vocab_size(),
            "ids": ids,
            "decoded": [sp.decode(i) for i in ids],
            "random_ids": random_ids,
            "random_decoded": [sp.decode(i) for i in random_ids],
        }
    ice = Ice(models["ice"])
    ids = [ice.encode(t) for t in texts]
    vectors["ice"] = {
        "vocab_size": ice.sp.vocab_size(),
        "ids": ids,
        "continued": [ice.encode(t, continued=True) for t in texts],
        "decoded": [ice.decode(i) for i in ids],
    }

    ranks = [bytes([b]) for b in range(256)]
    ranks += [left + right for left, right in train_byte_pairs(corpus[:400], GLM4, 300)]
    (HERE / "ranks.txt").write_text("".join(f"{base64.b64encode(t).decode()} {i}\n" for i, t in enumerate(ranks)))
    tik = tiktoken.Encoding(
        "ranks", pat_str=GLM4, mergeable_ranks={t: i for i, t in enumerate(ranks)}, special_tokens={}
    )
    vectors["ranks"] = {"vocab_size": tik.n_vocab, "ids": [tik.encode(t, disallowed_special=()) for t in texts]}

    show = alphabet()
    spell = lambda token: "".join(show[b] for b in token)
    rules = train_byte_pairs(corpus[:400], GPT2, 250)
    vocab = list(dict.fromkeys([*show.values(), *(spell(a + b) for a, b in rules)])) + ["<|endoftext|>"]
    (HERE / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(vocab)}, ensure_ascii=False) + "\n")
    (HERE / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{spell(a)} {spell(b)}\n" for a, b in rules))
    gpt2 = tokenizers.ByteLevelBPETokenizer(str(HERE / "vocab.json"), str(HERE / "merges.txt"), add_prefix_space=False)
    vectors["gpt2"] = {"vocab_size": len(vocab), "ids": [gpt2.encode(t).ids for t in texts]}

    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=True)}" for k, v in vectors.items())
    (HERE / "vectors.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
