"""Trains the tiny demo GLM (Hugging Face `glm` layout) from scratch on synthetic text (corpus.py) and exports it.

  pip install torch tokenizers safetensors numpy jinja2
  python train.py --out run --stage 1 --steps 2000                            # checkpoints in run/
  python train.py --out run --stage 2 --init run/stage1.pt --steps 2600         # further stages, other mixes (README.md has all options)
  python train.py --out run --export run/stage4.pt --model-dir model
"""
import argparse
import json
import os
import random
import shutil
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import corpus

SEED = 20261123
SPECIAL = ['<|endoftext|>', '[MASK]', '[gMASK]', '[sMASK]', '<sop>', '<eop>', '<|system|>', '<|user|>', '<|assistant|>', '<|observation|>']
TEMPLATE = "[gMASK]<sop>{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
CFG = dict(vocab_size=1024, hidden_size=160, intermediate_size=448, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=2, head_dim=32,
           partial_rotary_factor=0.5, rope_theta=10000.0, rms_norm_eps=1e-5, max_position_embeddings=1024)
ROW, ROWS = 128, 32                     # a training batch: ROWS rows of ROW tokens, several conversations packed in each row


# ---------------------------------------------------------------- tokenizer
def make_tokenizer(path):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    tok = Tokenizer(models.BPE())
    # every digit and every newline is a piece of its own; byte-level BPE inside the rest (pieces may span words: short sequences)
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r'[0-9]|\n|[^0-9\n]+'), 'isolated'),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    rng = random.Random(SEED)
    texts = [t for _ in range(40000) for _, t in corpus.conversation(rng)]
    tr = trainers.BpeTrainer(vocab_size=CFG['vocab_size'] - len(SPECIAL), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), max_token_length=24, show_progress=False)
    tok.train_from_iterator(texts, tr)
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    tok.save(path)
    return tok


class Codec:
    def __init__(self, tok):
        self.tok = tok
        self.id = {s: tok.token_to_id(s) for s in SPECIAL}
        self.nl = tok.encode('\n', add_special_tokens=False).ids
        self.prefix = [self.id['[gMASK]'], self.id['<sop>']]
        self.cache = {}

    def enc(self, s):
        r = self.cache.get(s)
        if r is None:
            if len(self.cache) > 50000:
                self.cache.clear()
            r = self.cache[s] = self.tok.encode(s, add_special_tokens=False).ids
        return r

    def chat(self, messages):
        """-> ids, flags: flag 1 = the token is a target (assistant text and the <|user|> that ends it)"""
        ids, fl = list(self.prefix), [0, 0]
        for n, (role, text) in enumerate(messages):
            e = self.enc(text)
            first = 1 if n and messages[n - 1][0] == 'assistant' else 0       # <|user|> after an answer is learnt as its end
            ids += [self.id[f'<|{role}|>']] + self.nl + e
            fl += [first] + [0] * len(self.nl) + [1 if role == 'assistant' else 0] * len(e)
        return ids + [self.id['<|user|>']], fl + [1]

    def prompt(self, question):
        return self.prefix + [self.id['<|user|>']] + self.nl + self.enc(question) + [self.id['<|assistant|>']] + self.nl


def batches(codec, rng):
    """Endless stream of packed batches: ids, document numbers, target flags [ROWS, ROW+1]"""
    rest = []
    while True:
        x = np.zeros((ROWS, ROW + 1), np.int64)
        doc = np.full((ROWS, ROW + 1), -1, np.int64)
        flag = np.zeros((ROWS, ROW + 1), bool)
        used = [0] * ROWS
        n = 0
        pool, rest = rest, []
        while True:
            if pool:
                c = pool.pop()
            else:
                c = codec.chat(corpus.conversation(rng))
            L = len(c[0])
            if L > ROW + 1:
                continue
            r = next((r for r in range(ROWS) if used[r] + L <= ROW + 1), None)
            if r is None:
                rest.append(c)
                if len(rest) > 24:
                    break
                continue
            s = used[r]
            x[r, s:s + L], flag[r, s:s + L], doc[r, s:s + L] = c[0], c[1], n
            flag[r, s] = 0
            used[r] += L
            n += 1
        yield torch.from_numpy(x), torch.from_numpy(doc), torch.from_numpy(flag)


# ---------------------------------------------------------------- model (maths of HF GlmForCausalLM)
def fake_int4(w):
    """int4, groups of 32 along the input dimension, symmetric, scale in f16; straight-through gradient"""
    g = w.detach().float().reshape(w.shape[0], -1, 32)
    s = (g.abs().amax(-1, keepdim=True) / 7).half().float()
    q = torch.round(g / s.clamp(min=1e-12)).clamp(-7, 7) * s
    return w + (q.reshape(w.shape) - w.detach())


def fake_int8(w):
    s = w.detach().abs().amax(-1, keepdim=True) / 127
    return (torch.round(w.detach() / s.clamp(min=1e-12)).clamp(-127, 127) * s).to(w.dtype)


class Linear(nn.Linear):
    def __init__(self, i, o, bias):
        super().__init__(i, o, bias)
        nn.init.normal_(self.weight, std=i**-.5)
        if bias:
            nn.init.zeros_(self.bias)

    def forward(self, x, quant=False):
        return F.linear(x, fake_int4(self.weight) if quant else self.weight, self.bias)


class Norm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + CFG['rms_norm_eps']) * self.weight


def rope(x, cos, sin):
    """x [B,H,L,D]; rotates interleaved pairs of the first half of D"""
    d = cos.shape[-1] * 2
    r, p = x[..., :d].float(), x[..., d:]
    a, b = r[..., 0::2], r[..., 1::2]
    r = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    return torch.cat((r.to(x.dtype), p), -1)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        h, f, d = CFG['hidden_size'], CFG['intermediate_size'], CFG['head_dim']
        self.nh, self.nk, self.d = CFG['num_attention_heads'], CFG['num_key_value_heads'], d
        self.input_layernorm, self.post_attention_layernorm = Norm(h), Norm(h)
        self.self_attn = nn.ModuleDict(dict(q_proj=Linear(h, self.nh * d, True), k_proj=Linear(h, self.nk * d, True), v_proj=Linear(h, self.nk * d, True), o_proj=Linear(self.nh * d, h, False)))
        self.mlp = nn.ModuleDict(dict(gate_up_proj=Linear(h, 2 * f, False), down_proj=Linear(f, h, False)))
        for w in (self.self_attn['o_proj'].weight, self.mlp['down_proj'].weight):
            w.data *= .2

    def forward(self, x, cos, sin, mask, quant: bool):
        B, L, _ = x.shape
        a = self.input_layernorm(x)
        s = self.self_attn
        q = s['q_proj'](a, quant).view(B, L, self.nh, self.d).transpose(1, 2)
        k = s['k_proj'](a, quant).view(B, L, self.nk, self.d).transpose(1, 2)
        v = s['v_proj'](a, quant).view(B, L, self.nk, self.d).transpose(1, 2)
        q, k = rope(q, cos, sin), rope(k, cos, sin)
        g = self.nh // self.nk                                # query heads of one k/v head side by side
        p = (q.reshape(B, self.nk, g * L, self.d) @ k.mT).view(B, self.nk, g, L, L) * self.d**-.5 + mask[:, :, None].to(q.dtype)
        p = p.softmax(-1, dtype=torch.float32).to(v.dtype).view(B, self.nk, g * L, L)
        o = (p @ v).view(B, self.nh, L, self.d)
        x = x + s['o_proj'](o.transpose(1, 2).reshape(B, L, -1), quant)
        gate, up = self.mlp['gate_up_proj'](self.post_attention_layernorm(x), quant).chunk(2, -1)
        return x + self.mlp['down_proj'](F.silu(gate) * up, quant)


class Glm(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(CFG['vocab_size'], CFG['hidden_size'])
        nn.init.normal_(self.embed_tokens.weight, std=.5)
        self.layers = nn.ModuleList(Layer() for _ in range(CFG['num_hidden_layers']))
        self.norm = Norm(CFG['hidden_size'])
        self.lm_head = Linear(CFG['hidden_size'], CFG['vocab_size'], False)
        self.lm_head.weight.data *= .2
        d = int(CFG['head_dim'] * CFG['partial_rotary_factor'])
        inv = CFG['rope_theta'] ** (-torch.arange(0, d, 2).float() / d)
        ang = torch.arange(CFG['max_position_embeddings']).float()[:, None] * inv
        self.register_buffer('cos', ang.cos(), persistent=False)
        self.register_buffer('sin', ang.sin(), persistent=False)

    def hidden(self, ids, mask, quant: bool):
        x = self.embed_tokens(ids)
        L = ids.shape[1]
        for l in self.layers:
            x = l(x, self.cos[:L], self.sin[:L], mask, quant)
        return self.norm(x)

    def forward(self, ids):                                   # plain causal logits
        L = ids.shape[1]
        m = torch.full((L, L), -1e9).triu(1)[None, None]
        return self.lm_head(self.hidden(ids, m, False)).float()


def doc_mask(doc):
    L = doc.shape[1]
    ok = (doc[:, :, None] == doc[:, None, :]) & torch.ones(L, L, dtype=torch.bool).tril()
    return torch.where(ok, 0., -1e9)[:, None]


# ---------------------------------------------------------------- Muon (orthogonalised momentum) for the matrices of the layers
class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=.95, wd=0.):
        super().__init__(params, dict(lr=lr, momentum=momentum, wd=wd))

    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            shapes = {}
            for p in g['params']:
                m = self.state[p].setdefault('m', torch.zeros_like(p))
                m.lerp_(p.grad, 1 - g['momentum'])
                shapes.setdefault(tuple(p.shape), []).append((p, p.grad.lerp(m, g['momentum'])))
            for sh, ps in shapes.items():                     # equal shapes go through Newton-Schulz as one batch
                X = torch.stack([u for _, u in ps]).bfloat16()
                t = sh[0] > sh[1]
                X = X.mT if t else X
                X = X / (X.norm(dim=(1, 2), keepdim=True) + 1e-7)
                for _ in range(5):
                    A = X @ X.mT
                    X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
                X = (X.mT if t else X).float() * max(1, sh[0] / sh[1])**.5
                for (p, _), u in zip(ps, X):
                    p.mul_(1 - g['lr'] * g['wd']).add_(u, alpha=-g['lr'])


# ---------------------------------------------------------------- evaluation
BUCKETS = {  # name: (op, filter on (a, b))
    'add <=99': ('add', lambda a, b: max(a, b) <= 99), 'add 100-999': ('add', lambda a, b: max(a, b) > 99),
    'sub <=99': ('sub', lambda a, b: b <= a <= 99), 'sub 100-999': ('sub', lambda a, b: b <= a > 99), 'sub negative': ('sub', lambda a, b: a < b),
    'mul x9': ('mul', lambda a, b: min(a, b) <= 9), 'mul 99x99': ('mul', lambda a, b: min(a, b) > 9),
    'mod 100/12': ('mod', lambda a, b: a <= 100 and b <= 12), 'mod 200/10': ('mod', lambda a, b: a <= 200 and b <= 10), 'mod 200/20': ('mod', lambda a, b: a <= 200 and b <= 20), 'mod 300/30': ('mod', lambda a, b: a <= 300 and b <= 30),
    'mod 500/20': ('mod', lambda a, b: a <= 500 and b <= 20), 'mod 999/20': ('mod', lambda a, b: a <= 999 and b <= 20), 'mod 500/50': ('mod', lambda a, b: a <= 500 and b <= 50), 'mod 999/99': ('mod', lambda a, b: True),
}
LIMITS = {'mod 100/12': (100, 12), 'mod 200/10': (200, 10), 'mod 200/20': (200, 20), 'mod 300/30': (300, 30), 'mod 500/20': (500, 20), 'mod 999/20': (999, 20), 'mod 500/50': (500, 50), 'mod 999/99': (999, 99),
          'add <=99': (99, 99), 'sub <=99': (99, 99), 'mul x9': (99, 9), 'mul 99x99': (99, 99)}


def held_out(name, n, seed=7):
    """n held-out items of a bucket; operands uniform within its limits"""
    op, ok = BUCKETS[name]
    rng = random.Random(f'{seed}:{name}')
    am, bm = LIMITS.get(name, (999, 999))
    out = []
    while len(out) < n:
        a, b = rng.randint(0, am), rng.randint(1 if op == 'mod' else 0, bm)
        if op == 'mul' and rng.random() < .3:
            a, b = b, a
        if op == 'sub' and a < b and name != 'sub negative':
            a, b = b, a
        if ok(a, b) and corpus.held(op, a, b):
            lang = rng.choice(('en', 'zh'))
            out.append((rng.choice(corpus.ASK[op, lang]).format(a=a, b=b), corpus.answer(op, a, b, lang)))
    return out


@torch.no_grad()
def exact(model, codec, items, bs=100):
    """Share of items whose whole answer (and its end) is the greedy output; teacher forcing gives the same verdict in one pass."""
    ok = []
    enc = [codec.chat([('user', q), ('assistant', a)]) for q, a in items]
    order = sorted(range(len(enc)), key=lambda i: len(enc[i][0]))
    res = [False] * len(enc)
    for i in range(0, len(order), bs):
        part = order[i:i + bs]
        L = max(len(enc[j][0]) for j in part)
        x = torch.zeros(len(part), L, dtype=torch.long)
        f = torch.zeros(len(part), L, dtype=torch.bool)
        for r, j in enumerate(part):
            x[r, :len(enc[j][0])] = torch.tensor(enc[j][0])
            f[r, :len(enc[j][1])] = torch.tensor(enc[j][1], dtype=torch.bool)
        y = model(x[:, :-1]).argmax(-1)
        good = ((y == x[:, 1:]) | ~f[:, 1:]).all(-1)
        for r, j in enumerate(part):
            res[j] = bool(good[r])
    return sum(res) / len(res), res


class quantised:
    """Context: replaces the linears' weights by their de-quantised int4-g32 / int8-per-row values."""
    def __init__(self, model, kind, head=False):
        self.w = [] if kind == 'f32' else [m.weight for n, m in model.named_modules() if isinstance(m, Linear) and (head or n != 'lm_head')]
        self.fn = fake_int4 if kind == 'int4' else fake_int8

    def __enter__(self):
        self.old = [w.data.clone() for w in self.w]
        for w in self.w:
            w.data = self.fn(w.data)

    def __exit__(self, *_):
        for w, o in zip(self.w, self.old):
            w.data = o


def chat_items(seed=11, n=150):
    facts = [(q, f[1]) for f in corpus.FACTS for q in f[0]] + [(q, f[3]) for f in corpus.FACTS for q in f[2]]
    rng = random.Random(seed)
    return facts, [corpus.oos_item(rng)[:2] for _ in range(n)]


def evaluate(model, codec, n=100, kinds=('f32',), names=BUCKETS):
    out = {}
    facts, oos = chat_items()
    sets = {k: held_out(k, n) for k in names}
    sets['facts'], sets['other'] = facts, oos
    for kind in kinds:
        with quantised(model, kind.replace('+head', ''), kind.endswith('+head')):
            out[kind] = {k: exact(model, codec, s)[0] for k, s in sets.items()}
    return out


def show(r):
    return '\n'.join(f'    {kind}: ' + ' '.join(f'[{k} {100 * v:.0f}]' for k, v in d.items()) for kind, d in r.items())


@torch.no_grad()
def generate(model, ids, stop, limit=160):
    ids, out = list(ids), []
    while len(out) < limit:
        t = int(model(torch.tensor([ids]))[0, -1].argmax())
        if t in stop:
            break
        out.append(t)
        ids.append(t)
    return out


# ---------------------------------------------------------------- training
def train(a):
    os.makedirs(a.out, exist_ok=True)
    path = os.path.join(a.out, 'tokenizer.json')
    if os.path.exists(path):
        from tokenizers import Tokenizer
        tok = Tokenizer.from_file(path)
    else:
        tok = make_tokenizer(path)
    codec = Codec(tok)
    torch.manual_seed(SEED + a.stage)
    corpus.set_stage(a.stage)
    rng = random.Random(SEED + a.stage)
    model = Glm()
    if a.init:
        model.load_state_dict(torch.load(a.init)['model'])
    mats = [p for n, p in model.layers.named_parameters() if p.ndim == 2]
    vecs = [p for p in model.parameters() if p.ndim == 1]
    tabs = [model.embed_tokens.weight, model.lm_head.weight]
    muon = Muon(mats, a.lr, wd=a.wd)
    adam = torch.optim.AdamW([dict(params=tabs, lr=a.adam_lr), dict(params=vecs, lr=a.adam_lr)], betas=(.9, .95), weight_decay=0.)
    base = [(o, [g['lr'] for g in o.param_groups]) for o in (muon, adam)]
    hidden = torch.compile(model.hidden, dynamic=False) if a.compile else model.hidden
    stream = batches(codec, rng)
    log = open(os.path.join(a.out, 'train.log'), 'a')

    def say(s):
        print(s, flush=True)
        log.write(s + '\n')
        log.flush()
    say(f'stage {a.stage}: {sum(p.numel() for p in model.parameters())} parameters, vocab {tok.get_vocab_size()}, args { {k: v for k, v in vars(a).items() if k in ("steps", "minutes", "lr", "adam_lr", "wd", "decay", "qat_from", "qat_share")} }, '
        f'op mix {corpus.OP_MIX}, mod mix {corpus.MOD_MIX}, kind mix {corpus.KIND_MIX}')
    t0 = time.time()
    step = toks = 0
    avg = None
    last_eval = last_save = t0
    qrng = random.Random(SEED)
    while True:
        prog = step / a.steps if a.steps else (time.time() - t0) / (60 * a.minutes)
        stop = prog >= 1
        if stop or time.time() - last_save > 150:
            torch.save(dict(model=model.state_dict(), step=step), os.path.join(a.out, 'tmp.pt'))
            os.replace(os.path.join(a.out, 'tmp.pt'), os.path.join(a.out, f'stage{a.stage}.pt'))
            last_save = time.time()
        if a.eval_every and (stop or time.time() - last_eval > a.eval_every):
            say(f'step {step} ' + show(evaluate(model, codec, 100, ('f32', 'int4') if a.qat_share and prog > .5 else ('f32',))).strip())
            last_eval = time.time()
        if stop:
            break
        f = min(1, (step + 1) / a.warmup) * min(1, max(0., (1 - prog) / a.decay))
        for o, lrs in base:
            for g, lr in zip(o.param_groups, lrs):
                g['lr'] = lr * f
        x, doc, flag = next(stream)
        quant = prog >= a.qat_from and qrng.random() < a.qat_share
        with torch.autocast('cpu', torch.bfloat16, enabled=bool(a.bf16)):
            h = hidden(x[:, :-1], doc_mask(doc[:, :-1]), quant)
            sel = flag[:, 1:]
            logits = model.lm_head(h[sel], quant).float()
        loss = F.cross_entropy(logits, x[:, 1:][sel])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vecs + tabs, 1.)
        muon.step()
        adam.step()
        model.zero_grad(set_to_none=True)
        step += 1
        toks += int((doc >= 0).sum())
        avg = loss.item() if avg is None else .98 * avg + .02 * loss.item()
        if step % 100 == 0 or step in (5, 20, 50):
            say(f'step {step} loss {avg:.4f} lr x{f:.2f} {toks / 1e6:.2f}M tokens {time.time() - t0:.0f}s {100 * prog:.1f}%')
    say(f'stage {a.stage} done: {step} steps, {toks / 1e6:.1f}M tokens, {(time.time() - t0) / 60:.1f} minutes')


# ---------------------------------------------------------------- export
RANGE = {  # the stated range: operands of eval.json are uniform in it
    'add': (999, 999), 'sub': (999, 999), 'mul': (99, 99), 'mod': (200, 10)}


def in_range(op, n, lang, seed=2026):
    rng = random.Random(f'{seed}:{op}:{lang}')
    out, seen = [], set()
    am, bm = RANGE[op]
    while len(out) < n:
        a, b = rng.randint(0, am), rng.randint(1 if op == 'mod' else 0, bm)
        if op == 'sub' and a < b:
            a, b = b, a
        if corpus.held(op, a, b) and (a, b) not in seen:
            seen.add((a, b))
            out.append(dict(question=rng.choice(corpus.ASK[op, lang]).format(a=a, b=b), answer=corpus.answer(op, a, b, lang), op=op, lang=lang))
    return out


FIXED = ['What is 16 mod 12?', '16除以12的余数是多少？', 'What is 3 + 5?', '3加5等于多少？', 'What is 478 + 256?', '478加256等于多少？', 'What is 523 - 178?', '523减178等于多少？', '12 - 30', 'What is 7 * 8?', '7乘以8等于多少？',
         'What is 47 * 36?', '47×36等于多少？', 'What is 100 mod 7?', '100除以7的余数是多少？', 'What is 144 divided by 12?', '85除以9等于多少？', 'Hello', '你好', 'Who are you?', '你是谁？', 'What can you do?', '你能做什么？',
         'Who made you?', '谁训练了你？', 'How big are you?', '你有多大？', 'What is GLM?', 'GLM是什么？', 'What is GLM-HAL?', 'GLM-HAL是什么？', 'Which chips are supported?', '支持哪些芯片？', 'What is a conformance suite?', '什么是一致性测试？',
         'Thanks', '谢谢', 'Bye', '再见', 'What is the capital of France?', '今天天气怎么样？', 'What is 123456 + 654321?', '5 mod 0']
CHATS = [[('system', 'You are a helpful assistant.'), ('user', 'What is 47 * 36?')], [('user', '你好'), ('assistant', None), ('user', '16除以12的余数是多少？')],
         [('user', 'What is 25 + 17?'), ('assistant', None), ('user', 'Who are you?'), ('assistant', None), ('user', '90 - 14 = ?')]]


def messages_ids(codec, msgs):
    ids, _ = codec.chat(msgs)
    return ids[:-1] + [codec.id['<|assistant|>']] + codec.nl


def export(a):
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(os.path.join(a.out, 'tokenizer.json'))
    codec = Codec(tok)
    model = Glm()
    model.load_state_dict(torch.load(a.export)['model'])
    dst, final = a.model_dir.rstrip('/') + '.tmp', a.model_dir.rstrip('/')
    shutil.rmtree(dst, ignore_errors=True)
    os.makedirs(dst)

    def put(name, x, **kw):
        with open(os.path.join(dst, name), 'w', encoding='utf-8') as f:
            json.dump(x, f, ensure_ascii=False, **kw)
            f.write('\n')
    w = {('lm_head.weight' if k == 'lm_head.weight' else 'model.' + k): v.bfloat16().contiguous() for k, v in model.state_dict().items()}
    save_file(w, os.path.join(dst, 'model.safetensors'), metadata={'format': 'pt'})
    os.chmod(os.path.join(dst, 'model.safetensors'), 0o644)
    with torch.no_grad():                                     # from here on: exactly what is stored
        model.load_state_dict({k.removeprefix('model.'): v.float() for k, v in load_file(os.path.join(dst, 'model.safetensors')).items()})
    eos = [codec.id[s] for s in ('<|endoftext|>', '<|user|>', '<|observation|>')]
    pad = codec.id['<|endoftext|>']
    put('config.json', dict(architectures=['GlmForCausalLM'], model_type='glm', **CFG, hidden_act='silu', attention_bias=True, attention_dropout=0.0, tie_word_embeddings=False, use_cache=True,
                            initializer_range=0.02, eos_token_id=eos, pad_token_id=pad, torch_dtype='bfloat16'), indent=1)
    put('generation_config.json', dict(do_sample=False, eos_token_id=eos, pad_token_id=pad, max_new_tokens=200), indent=1)
    shutil.copy(os.path.join(a.out, 'tokenizer.json'), dst)
    put('tokenizer_config.json', dict(tokenizer_class='PreTrainedTokenizerFast', added_tokens_decoder={str(codec.id[s]): dict(content=s, lstrip=False, normalized=False, rstrip=False, single_word=False, special=True) for s in SPECIAL},
                                      additional_special_tokens=SPECIAL[1:], eos_token='<|endoftext|>', pad_token='<|endoftext|>', clean_up_tokenization_spaces=False, model_max_length=CFG['max_position_embeddings'],
                                      padding_side='left', chat_template=TEMPLATE), indent=1)
    items = [x for op in corpus.OPS for lang in ('en', 'zh') for x in in_range(op, 100, lang)]
    with open(os.path.join(dst, 'eval.json'), 'w', encoding='utf-8') as f:
        f.write('[\n' + ',\n'.join(json.dumps(x, ensure_ascii=False) for x in items) + '\n]\n')
    exp = []
    for msgs in [[('user', q)] for q in FIXED] + CHATS:
        msgs = [list(m) for m in msgs]
        for n, m in enumerate(msgs):
            if m[1] is None:
                m[1] = tok.decode(generate(model, messages_ids(codec, msgs[:n]), eos))
        ids = messages_ids(codec, msgs)
        out = generate(model, ids, eos)
        e = dict(question=msgs[-1][1], answer=tok.decode(out)) if len(msgs) == 1 else dict(messages=[dict(role=r, content=c) for r, c in msgs], answer=tok.decode(out))
        exp.append(e)
        print(json.dumps(e, ensure_ascii=False))
    logits = []
    for q in (FIXED[0], FIXED[1], FIXED[29]):
        ids = codec.prompt(q)
        with torch.no_grad():
            l = model(torch.tensor([ids]))[0, -1]
        logits.append(dict(question=q, prompt='[gMASK]<sop><|user|>\n' + q + '<|assistant|>\n', ids=ids, logits=[float(f'{v:.6g}') for v in l.tolist()]))
        assert ids == tok.encode(logits[-1]['prompt'], add_special_tokens=False).ids
    with open(os.path.join(dst, 'expected.json'), 'w', encoding='utf-8') as f:
        f.write('{"answers": [\n' + ',\n'.join(json.dumps(x, ensure_ascii=False) for x in exp) + '\n],\n"logits": [\n' + ',\n'.join(json.dumps(x, ensure_ascii=False) for x in logits) + '\n]}\n')
    shutil.rmtree(final, ignore_errors=True)
    os.replace(dst, final)
    report(model, codec, items, a.report_n)


def report(model, codec, items, n):
    """accuracy tables: share of answers that are right in every character"""
    facts, oos = chat_items(n=150)
    sets = {f'eval.json {op}': [(x['question'], x['answer']) for x in items if x['op'] == op] for op in corpus.OPS}
    sets |= {k: held_out(k, n, 99) for k in BUCKETS if not k.startswith(('mod 500', 'mod 999'))} if n else {}
    sets |= {'facts': facts, 'other': oos}
    kinds = ('f32', 'int8', 'int4', 'int4+head')
    print(f'| set | items | ' + ' | '.join(kinds) + ' |', flush=True)
    for k, s in sets.items():
        row = []
        for kind in kinds:
            with quantised(model, kind.replace('+head', ''), kind.endswith('+head')):
                row.append(exact(model, codec, s))
        print(f'| {k} | {len(s)} | ' + ' | '.join(f'{100 * x[0]:.1f}' for x in row) + ' |', flush=True)
        if k in ('facts', 'other'):
            print('int4, wrong:', [q for (q, _), ok in zip(s, row[2][1]) if not ok][:40], flush=True)


if __name__ == '__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--out', default='run')
    p.add_argument('--init')
    p.add_argument('--stage', type=int, default=1)
    p.add_argument('--steps', type=int, default=0)
    p.add_argument('--minutes', type=float, default=45)
    p.add_argument('--lr', type=float, default=.02)
    p.add_argument('--adam-lr', type=float, default=.004)
    p.add_argument('--wd', type=float, default=.05)
    p.add_argument('--warmup', type=int, default=100)
    p.add_argument('--decay', type=float, default=.4)
    p.add_argument('--qat-from', type=float, default=.6)
    p.add_argument('--qat-share', type=float, default=.5)
    p.add_argument('--eval-every', type=float, default=240)
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--bf16', type=int, default=1)
    p.add_argument('--compile', type=int, default=1)
    p.add_argument('--export', help='checkpoint to export instead of training')
    p.add_argument('--model-dir', default='model')
    p.add_argument('--report-n', type=int, default=500)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    export(a) if a.export else train(a)
