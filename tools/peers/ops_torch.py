#!/usr/bin/env python3
"""The cases of `emlab bench` through PyTorch: cuBLAS, SDPA (flash, cuDNN), torch.compile, fused AdamW.

    emlab bench --list --csv cases.csv
    python3 tools/peers/ops_torch.py cases.csv peer.csv [--only norm,linear]
    emlab bench --csv mine.csv --peer peer.csv

Before anything is timed, many parallel processes fill torch.compile's cache on disk. An op may be implemented in several
ways: each that works becomes a row of peer.csv, named in the column `via`, and the fastest is the peer. Timing follows
emlab's: random inputs, a GiB overwritten before each run (which also hides Python's launch overhead), events, the median.
What emlab fuses is one function for torch.compile here; if PyTorch has a function of its own for it, that is timed as well.
"""

import argparse
import csv
import math
import os
import re
import subprocess
import sys
import time
from datetime import datetime, timezone

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

COLUMNS = (
    "op model case via ms ms_p10 ms_p90 runs gflop mbyte tflops tbs limit_percent copy_percent note precision gpu clock_mhz celsius"
    " date"
).split()
EPS = 1e-6
REAL = torch.bfloat16
SLOW = False


def real(*shape, scale=1.0):
    return (torch.randn(*shape, device="cuda", dtype=torch.float32) * scale).to(REAL)


def normal(*shape):
    return torch.randn(*shape, device="cuda")


def indices(n, below):
    return torch.randint(0, below, (n,), device="cuda")


def compiled(f):
    return torch.compile(f, dynamic=False)


def both(f):
    """The function, eager and compiled."""
    fast = compiled(f)
    return lambda *inputs: {"torch.compile": lambda: fast(*inputs), "eager": lambda: f(*inputs)}


def one(f):
    fast = compiled(f)
    return lambda *inputs: {"torch.compile": lambda: fast(*inputs)}


# ---- one function an op: sizes → {way: a run}. `gemma` chooses between the families. ----


def copy(bytes, **_):
    a, b = normal(bytes // 4), torch.empty(bytes // 4, device="cuda")
    return {"copy_": lambda: b.copy_(a)}


def embedding_forward(N, V, C, **_):
    return both(lambda t, w: F.embedding(t, w) * C**0.5)(indices(N, V), real(V, C))


def embedding_backward(N, V, C, **_):
    return both(lambda dw, t, dx: dw.index_add_(0, t, dx.float() * C**0.5))(
        torch.zeros(V, C, device="cuda"), indices(N, V), real(N, C)
    )


def embedding_scatter(N, C, **_):
    rows = torch.arange(0, N, 2, device="cuda")
    return both(lambda x, rows, values: x.zero_().index_copy_(0, rows, values))(
        torch.empty(N, C, device="cuda", dtype=REAL), rows, real(len(rows), C)
    )


def gain(w, gemma):
    return 1 + w if gemma else w


def norm_rows(x, w, gemma):
    x = x.float()
    r = torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)
    return (x * r * gain(w, gemma)).to(REAL), r


def norm_rows_backward(dy, x, r, w, gemma):
    dy, x = dy.float() * gain(w, gemma), x.float()
    return r * (dy - x * r * r * (dy * x).mean(-1, keepdim=True))


def norm_forward(N, C, gemma, **_):
    x, w = real(N, C), normal(C)
    low = w.to(REAL)
    ways = one(lambda x, w: norm_rows(x, w, gemma))(x, w)
    return ways | {"F.rms_norm": lambda: F.rms_norm(x, (C,), low, EPS)}


def norm_add_forward(N, C, gemma, **_):
    def add(x, delta, w):
        total = x + delta
        return total, *norm_rows(total, w, gemma)

    return one(add)(real(N, C), real(N, C), normal(C))


def norm_backward(N, C, gemma, **_):
    f = lambda dy, x, r, w: norm_rows_backward(dy, x, r, w, gemma).to(REAL)  # noqa: E731
    return one(f)(real(N, C), real(N, C), normal(N, 1), normal(C))


def norm_backward_gain(N, C, gemma, **_):
    def backward(dw, dy, x, r, w):
        dw += (dy.float() * x.float() * r).sum(0)
        return norm_rows_backward(dy, x, r, w, gemma).to(REAL)

    return one(backward)(torch.zeros(C, device="cuda"), real(N, C), real(N, C), normal(N, 1), normal(C))


def norm_add_backward(N, C, gemma, **_):
    def backward(stream, dy, x, r, w):
        stream.copy_((stream.float() + norm_rows_backward(dy, x, r, w, gemma)).to(REAL))

    return one(backward)(real(N, C), real(N, C), real(N, C), normal(N, 1), normal(C))


def rope_angles(N, D, **_):
    frequencies = 1e6 ** (-torch.arange(0, D, 2, device="cuda").float() / D)

    def angles(positions):
        theta = positions[:, None].float() * frequencies
        return torch.cat([theta.cos(), theta.sin()], -1)

    return one(angles)(torch.arange(N, device="cuda"))


def rotate(x, angles, sign):
    (a, b), (cos, sin) = x.chunk(2, -1), angles[:, None].chunk(2, -1)
    return torch.cat([a * cos - sign * b * sin, b * cos + sign * a * sin], -1)


def rope_forward(N, H, KV, D, gemma, **_):
    def forward(qkv, angles, wq, wk):
        q, k, v = qkv.view(N, H + 2 * KV, D).split([H, KV, KV], 1)
        (q, rq), (k, rk) = ((x.float(), torch.rsqrt(x.float().square().mean(-1, keepdim=True) + EPS)) for x in (q, k))
        q = rotate(q * rq * gain(wq, gemma), angles, 1).to(REAL)
        k = rotate(k * rk * gain(wk, gemma), angles, 1).to(REAL)
        return q, k, v.contiguous(), torch.cat([rq, rk], 1)

    return one(forward)(real(N, (H + 2 * KV) * D), normal(N, D), normal(D), normal(D))


def rope_backward(N, H, KV, D, gemma, gains=False, **_):
    def backward(dwq, dwk, dq, dk, dv, qkv, r, angles, wq, wk):
        q, k, _ = qkv.view(N, H + 2 * KV, D).split([H, KV, KV], 1)
        parts = []
        for dy, x, r, w, dw in ((dq, q, r[:, :H], wq, dwq), (dk, k, r[:, H:], wk, dwk)):
            dy = rotate(dy.float(), angles, -1)
            if gains:
                dw += (dy * x.float() * r).sum((0, 1))
            parts.append(norm_rows_backward(dy, x, r, w, gemma).to(REAL))
        return torch.cat([*parts, dv], 1)

    heads = [real(N, heads, D) for heads in (H, KV, KV)]
    return one(backward)(
        *(torch.zeros(D, device="cuda") for _ in range(2)),
        *heads,
        real(N, (H + 2 * KV) * D),
        normal(N, H + KV, 1),
        normal(N, D),
        normal(D),
        normal(D),
    )


def rope_backward_gain(**sizes):
    return rope_backward(gains=True, **sizes)


def glu_forward(N, F_, gemma, **_):
    def forward(gate_up):
        gate, up = gate_up.chunk(2, -1)
        return (F.gelu(gate, approximate="tanh") if gemma else F.silu(gate)) * up

    return both(forward)(real(N, 2 * F_))


def glu_backward(N, F_, gemma, **_):
    def backward(dy, gate_up):
        gate, up = (x.float() for x in gate_up.chunk(2, -1))
        z, slope = gate, 1.0
        if gemma:
            z = 2 * math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
            slope = 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * gate**2)
        s = torch.sigmoid(z)
        dgate = dy.float() * up * (s + gate * s * (1 - s) * slope)
        return torch.cat([dgate.to(REAL), (dy.float() * gate * s).to(REAL)], -1)

    return one(backward)(real(N, F_), real(N, 2 * F_))


def linear_forward(part, N, O, I, **_):  # noqa: E741
    x, w = real(N, I), real(O, I, scale=0.02)
    if part != "head":
        return {"cuBLAS": lambda: F.linear(x, w)}
    return {
        "cuBLAS f32 out": lambda: torch.mm(x, w.t(), out_dtype=torch.float32),
        "cuBLAS widened": lambda: F.linear(x, w).float(),
    }


def adapter(N, O, I, R, S):  # noqa: E741
    """x, w, A, B and the rows of each segment."""
    rows = [int(rows) for rows in str(S).split("+")]
    matrices = real(N, I), real(O, I, scale=0.02), real(len(rows) * R, I, scale=0.02), real(O, R, scale=0.02)
    starts = [sum(rows[:g]) for g in range(len(rows))]
    return *matrices, [(slice(s, s + n), slice(g * R, g * R + R)) for g, (s, n) in enumerate(zip(starts, rows))]


def linear_lora_forward(N, O, I, R, S, **_):  # noqa: E741
    x, w, a, b, segments = adapter(N, O, I, R, S)

    def forward():
        y, s = F.linear(x, w), F.linear(x, a) * 11.31
        for rows, ranks in segments:
            y[:, rows].addmm_(s[:, ranks], b[rows].t())
        return y, s

    return {"cuBLAS": forward}


def linear_backward(N, O, I, **_):  # noqa: E741
    dy, w = real(N, O), real(O, I, scale=0.02)
    return {"cuBLAS": lambda: dy @ w}


def linear_lora_backward(N, O, I, R, S, **_):  # noqa: E741
    x, w, a, b, segments = adapter(N, O, I, R, S)
    dy, s, da, db = real(N, O), real(N, len(segments) * R), torch.zeros_like(a), torch.zeros_like(b)

    def backward():
        dx, ds = dy @ w, torch.empty_like(s)
        for rows, ranks in segments:
            torch.mm(dy[:, rows], b[rows], out=ds[:, ranks])
            db[rows].addmm_(dy[:, rows].t(), s[:, ranks])
        da.addmm_(ds.t(), x, alpha=11.31)
        return dx.addmm_(ds, a, alpha=11.31), ds

    return {"cuBLAS": backward}


def linear_full_backward(N, O, I, **_):  # noqa: E741
    dy, w, x = real(N, O), real(O, I, scale=0.02), real(N, I)
    dw = torch.zeros_like(w)
    return {"cuBLAS bf16 dW": lambda: (dy @ w, dw.addmm_(dy.t(), x))}


FLASH = torch.ops.aten._flash_attention_forward, torch.ops.aten._flash_attention_backward
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}


def documents(T):
    lengths, times = T.split("x")
    return [int(length) for length in lengths.split("+")] * int(times)


def under(backend, f):
    def run():
        with sdpa_kernel(backend):
            return f()

    return run


def attention(T, H, KV, D, W, backward):
    lengths = documents(T)
    n, longest = sum(lengths), max(lengths)
    ways = {}
    q, k, v = (real(n, heads, D) for heads in (H, KV, KV))
    dout = real(n, H, D)
    if len(set(lengths)) == 1 and not W:
        view = lambda x: x.view(len(lengths), longest, -1, D).transpose(1, 2).requires_grad_(backward)  # noqa: E731
        q4, k4, v4 = (view(x.clone()) for x in (q, k, v))
        dense = lambda: F.scaled_dot_product_attention(q4, k4, v4, is_causal=True, enable_gqa=True)  # noqa: E731
        for name, backend in BACKENDS.items():
            forward = under(backend, dense)
            ways[name] = differentiated(forward, (q4, k4, v4), dout) if backward else forward
    starts = torch.tensor([0, *lengths], device="cuda").cumsum(0).int()
    window = dict(window_size_left=W - 1, window_size_right=0) if W else {}
    packed = (starts, starts, longest, longest, 0.0, True)
    forward = lambda: FLASH[0](q, k, v, *packed, False, **window)  # noqa: E731

    def prepare():
        out, lse, state, unused = forward()[:4]
        return lambda: FLASH[1](dout, q, k, v, out, lse, *packed, state, unused, **window)

    ways["flash packed"] = Later(prepare) if backward else forward
    if SLOW and not any(way in ways for way in BACKENDS):
        ways["flex"] = Later(lambda: flex(q, k, v, dout, lengths, W, backward))
    return ways


class Later:
    """A run that needs preparation, which may fail."""

    def __init__(self, prepare):
        self.prepare = prepare


def differentiated(forward, inputs, dout):
    def prepare():
        out = forward()
        given = dout.view(out.shape[0], out.shape[2], out.shape[1], -1).transpose(1, 2)
        return lambda: torch.autograd.grad(out, inputs, given, retain_graph=True)

    return Later(prepare)


def flex(q, k, v, dout, lengths, W, backward):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    n = sum(lengths)
    document = torch.repeat_interleave(torch.tensor(lengths, device="cuda"))
    near = lambda i, j: (i - j < W) if W else (i >= j)  # noqa: E731
    mask = lambda b, h, i, j: (document[i] == document[j]) & (i >= j) & near(i, j)  # noqa: E731
    block_mask = create_block_mask(mask, None, None, n, n, device="cuda")
    q, k, v = (x[None].transpose(1, 2).requires_grad_(backward) for x in (q, k, v))
    fast = compiled(flex_attention)
    forward = lambda: fast(q, k, v, block_mask=block_mask, enable_gqa=True)  # noqa: E731
    return differentiated(forward, (q, k, v), dout).prepare() if backward else forward


def attention_forward(T, H, KV, D, W=0, **_):
    return attention(T, H, KV, D, W, False)


def attention_backward(T, H, KV, D, W=0, **_):
    return attention(T, H, KV, D, W, True)


def attention_cached(B, T, H, KV, D, **_):
    """One query per sequence; the heads that share keys become the rows of one product."""
    k, v = (real(B, int(T), KV, D).transpose(1, 2) for _ in range(2))
    grouped, single = real(B, KV, H // KV, D), real(B, H, 1, D)

    def products():
        p = torch.softmax((grouped @ k.transpose(2, 3)).float() * D**-0.5, -1)
        return p.to(REAL) @ v

    ways = {"products": products}
    for name, backend in BACKENDS.items():
        ways[name] = under(backend, lambda: F.scaled_dot_product_attention(grouped, k, v))
        ways[f"{name} gqa"] = under(backend, lambda: F.scaled_dot_product_attention(single, k, v, enable_gqa=True))
    return ways


def attention_store(B, T, KV, D, **_):
    keys, values = (torch.zeros(B * int(T), KV * D, device="cuda", dtype=REAL) for _ in range(2))
    slots = torch.arange(B, device="cuda") * int(T)
    f = lambda keys, values, slots, k, v: (keys.index_copy_(0, slots, k), values.index_copy_(0, slots, v))  # noqa: E731
    return both(f)(keys, values, slots, real(B, KV * D), real(B, KV * D))


def linear_cross_entropy(N, V, C, gradient):
    x, w, targets = real(N, C).requires_grad_(gradient), real(V, C, scale=0.02), indices(N, V)
    loss = lambda x, w, t: F.cross_entropy(F.linear(x, w).float(), t, reduction="none")  # noqa: E731
    ways = {}
    for name, f in {"torch.compile": compiled(loss), "eager": loss}.items():
        if gradient:
            ways[name] = lambda f=f: torch.autograd.grad(f(x, w, targets).sum(), x)
        else:
            ways[name] = lambda f=f: f(x, w, targets)
    return ways


def linear_cross_entropy_forward(N, V, C, **_):
    return linear_cross_entropy(N, V, C, False)


def linear_cross_entropy_gradient(N, V, C, **_):
    return linear_cross_entropy(N, V, C, True)


def sample(B, V, **_):
    """Samples by dividing by exponential noise and taking the argmax, which is equivalent to the Gumbel-max trick."""
    logits = normal(B, V) * 3
    draw = lambda x: (torch.softmax(x, -1) / torch.empty_like(x).exponential_(1)).argmax(-1)  # noqa: E731
    return both(draw)(logits) | {"multinomial": lambda: torch.multinomial(torch.softmax(logits, -1), 1)}


def sample_top_p(B, V, **_):
    """Nucleus sampling with p = 0.95, as transformers implements it."""
    logits = normal(B, V) * 3

    def draw(x):
        x, order = x.sort(-1, descending=True)
        p = torch.softmax(x, -1)
        p = torch.where(p.cumsum(-1) - p < 0.95, p, 0)
        return order.gather(-1, torch.multinomial(p, 1))

    return {"sort and multinomial": lambda: draw(logits)}


def adamw_step(E, **_):
    p, rounded = torch.nn.Parameter(normal(E)), torch.empty(E, device="cuda", dtype=REAL)
    p.grad = normal(E)
    optimizer = torch.optim.AdamW([p], lr=1e-5, fused=True)

    def step():
        optimizer.step()
        rounded.copy_(p.detach())
        p.grad.zero_()

    return {"fused AdamW + copy + zero_": step}


def adamw_square_sum(E, **_):
    g = normal(E)
    return {"vector_norm": lambda: torch.linalg.vector_norm(g), "dot": lambda: torch.dot(g, g)}


# ---- timing ----

FLUSH = None


def times(run):
    """Milliseconds of many runs, sorted."""
    global FLUSH
    if FLUSH is None:
        FLUSH = torch.empty(2**28, dtype=torch.float32, device="cuda")
    host = math.inf
    for _ in range(3):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        run()
        host = min(host, time.perf_counter() - begun)
    torch.cuda.synchronize()
    found = []
    while len(found) < 10 or (len(found) < 50 and sum(found) < 100):
        FLUSH.zero_()
        # If launching from Python takes longer than the write, wait: about 2,000 cycles per µs.
        if host > 1e-4:
            torch.cuda._sleep(int(6e9 * host))
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end))
    return sorted(found)


def sizes(row):
    """"part=qkv N=1" → arguments; F would hide torch.nn.functional."""
    number = lambda text: int(text) if text.isdigit() else text  # noqa: E731
    pairs = (pair.split("=", 1) for pair in row["case"].split())
    found = {"F_" if name == "F" else name: number(value) for name, value in pairs}
    return found | {"gemma": row["model"].startswith("gemma")}


STATE = [0.0, ("", "")]


def state():
    """Clock and temperature, queried every few seconds: a query takes as long as some measurements."""
    if time.monotonic() - STATE[0] < 3:
        return STATE[1]
    STATE[:] = [time.monotonic(), smi()]
    return STATE[1]


def smi():
    command = ["nvidia-smi", "--query-gpu=clocks.sm,temperature.gpu", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return subprocess.check_output(command, text=True).strip().split(", ")
    except (OSError, subprocess.CalledProcessError):
        return "", ""


COMPILED = ("embedding", "norm", "rope", "glu", "linear_cross_entropy", "sample")


def compiles(row):
    return row["op"].split()[0] in COMPILED or row["op"] == "attention store"


def warm(options, rows):
    """Fills the cache of torch.compile; each process takes a share of the rows."""
    count = min(len(rows), os.cpu_count() or 1)
    command = [sys.executable, __file__, options.cases, os.devnull, "--only", options.only, "--share"]
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    quiet |= dict(env=os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"})
    for process in [subprocess.Popen([*command, f"{share}/{count}"], **quiet) for share in range(count)]:
        process.wait()


def compile_share(rows, share):
    for row in rows[share[0] :: share[1]]:
        ways = globals()[row["op"].replace(" ", "_")](**sizes(row))
        if "torch.compile" in ways:
            ways["torch.compile"]()
        torch.cuda.synchronize()


def measure(row, write):
    """One row per way that works."""
    torch._dynamo.reset()
    for via, run in globals()[row["op"].replace(" ", "_")](**sizes(row)).items():
        try:
            if isinstance(run, Later):
                run = run.prepare()
            found = times(run)
        except Exception as error:  # a backend that does not take this shape
            reason = re.sub(r"[\s,]+", " ", f"{type(error).__name__}: {error}")[:160]
            print(f"left out: {row['op']} {row['model']} {row['case']} via {via}: {reason}", file=sys.stderr)
            continue
        ms, last = found[len(found) // 2], len(found) - 1
        rate = lambda column, unit: f"{float(row[column]) * unit / ms:.3f}"  # noqa: E731
        write(
            {name: row[name] for name in ("op", "model", "case", "gflop", "mbyte")}
            | dict(via=via, ms=f"{ms:.5f}", ms_p10=f"{found[(last + 5) // 10]:.5f}")
            | dict(ms_p90=f"{found[(last * 9 + 5) // 10]:.5f}", runs=len(found))
            | dict(tflops=rate("gflop", 1), tbs=rate("mbyte", 1e-3))
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", help="a table from `emlab bench`, with or without times")
    parser.add_argument("out", help="the table to write")
    parser.add_argument("--only", default="", help="ops, as for emlab bench: norm,linear")
    parser.add_argument("--slow", action="store_true", help="also flex_attention, which takes long to compile")
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no case after this time")
    parser.add_argument("--share", help=argparse.SUPPRESS)
    options = parser.parse_args()
    global SLOW
    SLOW = options.slow
    torch.manual_seed(0)
    torch._dynamo.config.recompile_limit = 1000
    # One forward pass is differentiated more than once.
    torch._functorch.config.donated_buffer = False
    only = [name for name in options.only.split(",") if name]
    wanted = lambda op: not only or any(op == name or op.split()[0] == name for name in only)  # noqa: E731
    begun = time.monotonic()
    with open(options.cases) as file:
        rows = [row for row in csv.DictReader(file) if row["via"] == "emlab"]
    rows = [row for row in rows if row["op"] == "copy" or wanted(row["op"])]
    to_compile = [row for row in rows if compiles(row)]
    if options.share:
        compile_share(to_compile, [int(number) for number in options.share.split("/")])
        return
    warm(options, to_compile)
    print(f"compiled after {time.monotonic() - begun:.0f} s", file=sys.stderr)
    with open(options.out, "w", newline="") as file:
        out = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        out.writeheader()
        facts = dict(precision="bf16", gpu=torch.cuda.get_device_name())
        facts["date"] = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%MZ")

        def write(row):
            clock, celsius = state()
            out.writerow(row | facts | dict(clock_mhz=clock, celsius=celsius))
            file.flush()

        for index, row in enumerate(rows):
            if time.monotonic() - begun > options.seconds:
                print(f"out of time: {len(rows) - index} cases are left out", file=sys.stderr)
                break
            try:
                measure(row, write)
            except torch.OutOfMemoryError as error:
                print(f"left out: {row['op']} {row['case']}: {error}", file=sys.stderr)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
