"""What Winograd's F(2 x 2, 3 x 3) would give on this processor: `python tests/benchmarks/winograd.py`

It needs 2.25 times fewer multiplications than the direct sum, and transforms of every tile before and after.
First single layers, as psi and the discriminators have them, forward; then the RRDB's dense block, forward
and with its gradients, whose inputs are transformed once for all five convolutions. Both beside torch's own
convolutions, channels last, with the largest difference from double precision over the largest value. It is
not used by the package: see README, A training step.
"""

import time

import torch
from torch.nn import functional as F

from qebias.generators.rrdb import RDB

G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def best(call, times=9):
    call(), call()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def rows(d, out):
    "The four combinations of B^T along the first axis of lists"
    (
        torch.sub(d[0], d[2], out=out[0]),
        torch.add(d[1], d[2], out=out[1]),
        torch.sub(d[2], d[1], out=out[2]),
        torch.sub(d[1], d[3], out=out[3]),
    )


def rows_back(v):
    "What even and odd places get back, [of their own tile, of the tile before]"
    return (v[0], v[1] + v[2] - v[0]), (v[1] - v[2] + v[3], -v[3])


def tiles(x, out):
    "(N, H, W, C) -> (4, 4, N, H/2, W/2, C)"
    n, h, w, c = x.shape
    p, between = F.pad(x, (0, 0, 1, 1, 1, 1)), x.new_empty(4, n, h // 2, w + 2, c)
    rows([p[:, i : i + h : 2] for i in range(4)], between)
    rows([between[:, :, :, i : i + w : 2] for i in range(4)], out.transpose(0, 1))


def tiles_back(v):
    "The adjoint of `tiles`"
    _, _, n, h, w, c = v.shape
    between, x = v.new_zeros(4, n, h, 2 * w + 2, c), v.new_zeros(n, 2 * h + 2, 2 * w + 2, c)
    for k, (own, before) in enumerate(rows_back(v.transpose(0, 1))):
        between[:, :, :, k::2][:, :, :, :-1] += own
        between[:, :, :, k::2][:, :, :, 1:] += before
    for k, (own, before) in enumerate(rows_back(between)):
        x[:, k::2][:, :-1] += own
        x[:, k::2][:, 1:] += before
    return x[:, 1:-1, 1:-1]


def image(m, n, h, w):
    "(16, tiles, K) -> (N, H, W, K)"
    m = m.view(4, 4, n, h // 2, w // 2, -1)
    y = m.new_empty(n, h // 2, 2, w // 2, 2, m.shape[-1])
    for j, a in enumerate((m[:, 0] + m[:, 1] + m[:, 2], m[:, 1] - m[:, 2] - m[:, 3])):
        torch.add(a[0] + a[1], a[2], out=y[:, :, 0, :, j])
        torch.sub(a[1] - a[2], a[3], out=y[:, :, 1, :, j])
    return y.view(n, h, w, -1)


def image_back(y):
    "The adjoint of `image`"
    n, h, w, k = y.shape
    y = y.reshape(n, h // 2, 2, w // 2, 2, k)

    def spread(a, b):
        return torch.stack([a, a + b, a - b, -b])

    columns = spread(y[:, :, 0], y[:, :, 1])
    return spread(columns[..., 0, :], columns[..., 1, :]).transpose(0, 1).reshape(16, -1, k)


def kernels(w):
    return torch.einsum("ai,kcij,bj->abck", G, w, G).reshape(16, w.shape[1], w.shape[0])


def kernels_back(u):
    return torch.einsum("ai,abck,bj->kcij", G, u.view(4, 4, *u.shape[1:]), G)


def layer(x, u, bias):
    "A 3 x 3 convolution of (N, H, W, C) with transformed kernels"
    n, h, w, c = x.shape
    v = x.new_empty(4, 4, n, h // 2, w // 2, c)
    tiles(x, v)
    return image(torch.bmm(v.view(16, -1, c), u), n, h, w).add_(bias)


class Dense(torch.autograd.Function):
    "The RRDB's dense block of (N, C, H, W)"

    @staticmethod
    def forward(ctx, x, *parameters):
        weights, biases, x = parameters[0::2], parameters[1::2], x.permute(0, 2, 3, 1)
        (n, h, w, c), g = x.shape, weights[0].shape[0]
        v = x.new_empty(4, 4, n, h // 2, w // 2, c + 4 * g)
        flat, known, us = v.view(16, -1, c + 4 * g), [], [kernels(k) for k in weights]
        tiles(x, v[..., :c])
        for i, u in enumerate(us):
            y = image(torch.bmm(flat[:, :, : c + i * g], u), n, h, w).add_(biases[i])
            if i < 4:
                known.append(F.leaky_relu(y, 0.2, inplace=True))
                tiles(y, v[..., c + i * g : c + (i + 1) * g])
        ctx.save_for_backward(v, *known, *us)
        return torch.add(x, y, alpha=0.2).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, gradient):
        v, *rest = ctx.saved_tensors
        known, us, gradient = rest[:4], rest[4:], gradient.permute(0, 2, 3, 1)
        flat, g = v.view(16, -1, v.shape[-1]), known[0].shape[-1]
        c, found, d, back = v.shape[-1] - 4 * g, [None] * 10, 0.2 * gradient, torch.zeros_like(v)
        for i in reversed(range(5)):
            k, m = c + i * g, image_back(d)
            found[2 * i], found[2 * i + 1] = (
                kernels_back(torch.bmm(flat[:, :, :k].transpose(1, 2), m)),
                d.sum((0, 1, 2)),
            )
            back.view(16, -1, v.shape[-1])[:, :, :k].baddbmm_(m, us[i].transpose(1, 2))
            if i:
                d = tiles_back(back[..., k - g : k])
                d = torch.where(known[i - 1] > 0, d, 0.2 * d)
        return ((tiles_back(back[..., :c]) + gradient).permute(0, 3, 1, 2), *found)


def error(found, exact):
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, exact))


def layers():
    print("layer, batch 4: direct, Winograd (times as fast), largest differences")
    for ci, co, side in (
        (64, 64, 128),
        (128, 128, 64),
        (256, 256, 32),
        (512, 512, 16),
        (512, 256, 32),
        (192, 64, 32),
    ):
        x, w, b = torch.randn(4, ci, side, side), torch.randn(co, ci, 3, 3) / (9 * ci) ** 0.5, torch.randn(co)
        x, cl = x.to(memory_format=torch.channels_last), w.to(memory_format=torch.channels_last)
        with torch.no_grad():
            u, nhwc = kernels(w), x.permute(0, 2, 3, 1)
            direct, wino = lambda: F.conv2d(x, cl, b, padding=1), lambda: layer(nhwc, u, b)
            exact, times = F.conv2d(x.double(), w.double(), b.double(), padding=1), (best(direct), best(wino))
            print(
                f"  {ci:3d} -> {co:3d}, {side:3d} x {side:3d}: {1e3 * times[0]:6.1f} ms, "
                f"{1e3 * times[1]:6.1f} ms ({times[0] / times[1]:.2f}x), "
                f"{error([direct()], [exact]):.0e} {error([wino().permute(0, 3, 1, 2)], [exact]):.0e}",
                flush=True,
            )


def blocks():
    print("dense block with its gradients: direct, Winograd (times as fast), largest differences")
    for width, batch in ((64, 1), (64, 4), (64, 8), (64, 16), (32, 4)):
        block = RDB(width, 32).to(memory_format=torch.channels_last)
        x, toward = (
            torch.randn(batch, width, 32, 32).to(memory_format=torch.channels_last) for _ in range(2)
        )
        exact = RDB(width, 32).double()
        exact.load_state_dict(block.state_dict())

        def gradients(call, x, parameters, toward):
            x = x.detach().requires_grad_()
            y = call(x)
            return [y, *torch.autograd.grad(y, [x, *parameters], toward)]

        own = list(block.parameters())
        direct, wino = (
            lambda: gradients(block, x, own, toward),
            lambda: gradients(lambda t: Dense.apply(t, *own), x, own, toward),
        )
        reference, times = (
            gradients(exact, x.double(), list(exact.parameters()), toward.double()),
            (best(direct), best(wino)),
        )
        print(
            f"  width {width}, batch {batch:2d}: {1e3 * times[0]:6.1f} ms, {1e3 * times[1]:6.1f} ms "
            f"({times[0] / times[1]:.2f}x), {error(direct(), reference):.0e} {error(wino(), reference):.0e}",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(2)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, 2 threads, fp32")
    layers()
    blocks()
