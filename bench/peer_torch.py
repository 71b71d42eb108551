#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The PyTorch peer of mmebm-bench: the same networks, chains and JSON lines. compare.py runs both in turn and sets the
environment that makes PyTorch fast on a CPU (bench/README.md).

    peer_torch.py --chain langevin_x --precision bf16 --threads 2 --batch 64
    peer_torch.py --device cuda --chain langevin_z --precision bf16 --batch 256 --steps 30

On a GPU a whole chain is one CUDA graph of networks compiled by torch.compile: the fastest that PyTorch offers. The
training step is for CPUs only.
"""
import argparse
import json
import resource
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

MODALITIES, IMAGE, CHANNELS = 5, 28, 3


def conv(inputs, outputs, kernel=3, bias=True):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)


class EnergyBlock(nn.Module):
    def __init__(self, inputs, outputs, down, head):
        super().__init__()
        self.first, self.second = conv(inputs, outputs, bias=False), conv(outputs, outputs, bias=False)
        self.shortcut = conv(inputs, outputs, 1, bias=False) if down or inputs != outputs else nn.Identity()
        self.pool = nn.AvgPool2d(2) if down else nn.Identity()
        self.before = nn.Identity() if head else nn.ReLU()

    def forward(self, x):
        branch = self.second(F.relu(self.first(self.before(x))))
        # the 1x1 shortcut commutes with the pool and is four times cheaper after it
        return self.pool(branch) + self.shortcut(self.pool(x))


class Energy(nn.Module):
    """Table 6; no biases."""

    def __init__(self, nef, stem):
        super().__init__()
        self.stems = nn.ModuleList(conv(CHANNELS, stem, bias=False) for _ in range(MODALITIES))
        self.blocks = nn.Sequential(EnergyBlock(MODALITIES * stem, nef, True, True), EnergyBlock(nef, nef, True, False),
                                    EnergyBlock(nef, nef, False, False), EnergyBlock(nef, nef, False, False))
        self.out = nn.Linear(nef, 1, bias=False)

    def forward(self, xs):
        h = torch.cat([stem(x) for stem, x in zip(self.stems, xs)], 1)
        return self.out(F.relu(self.blocks(h)).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        hidden = min(inputs, outputs)
        self.first, self.second = conv(inputs, hidden), conv(hidden, outputs)
        self.shortcut = nn.Identity() if inputs == outputs else conv(inputs, outputs, 1, bias=False)

    def forward(self, x):
        branch = self.second(F.leaky_relu(self.first(F.leaky_relu(x, 0.2)), 0.2))
        return self.shortcut(x) + 0.1 * branch


class Encoder(nn.Module):
    def __init__(self, nf, latent):
        super().__init__()
        self.trunk = nn.Sequential(conv(CHANNELS, nf), Residual(nf, nf), nn.AvgPool2d(3, 2, 1), Residual(nf, 2 * nf),
                                   nn.AvgPool2d(3, 2, 1), Residual(2 * nf, 4 * nf), nn.Flatten())
        self.mean = nn.Linear(4 * nf * (IMAGE // 4) ** 2, latent)
        self.raw = nn.Linear(4 * nf * (IMAGE // 4) ** 2, latent)

    def forward(self, x):
        h = self.trunk(x)
        return self.mean(h), self.raw(h)


class Decoder(nn.Module):
    def __init__(self, nf, latent):
        super().__init__()
        side = IMAGE // 4
        self.trunk = nn.Sequential(
            nn.Linear(latent, 4 * nf * side * side), nn.Unflatten(1, (4 * nf, side, side)), Residual(4 * nf, 2 * nf),
            nn.Upsample(scale_factor=2), Residual(2 * nf, nf), nn.Upsample(scale_factor=2), Residual(nf, nf),
            nn.LeakyReLU(0.2), conv(nf, CHANNELS))

    def forward(self, z):
        return self.trunk(z)


class Bench:
    def __init__(self, args):
        self.args = args
        place = dict(device=args.device, memory_format=torch.channels_last)
        self.energy = Energy(args.nef, args.stem).to(**place)
        self.decoders = nn.ModuleList(Decoder(args.nf, args.latent) for _ in range(MODALITIES)).to(**place)
        self.xs = [torch.rand(args.batch, CHANNELS, IMAGE, IMAGE).to(**place) for _ in range(MODALITIES)]
        self.z = torch.randn(MODALITIES * args.batch, args.latent, device=args.device)
        for parameter in [*self.energy.parameters(), *self.decoders.parameters()]:
            parameter.requires_grad_(False)
        if args.chain == "step":
            self.prepare_step()

    def networks(self):
        return torch.autocast(self.args.device, torch.bfloat16, enabled=self.args.precision == "bf16")

    def langevin_x(self, xs, steps, l=0.1, n=0.001, clamp=0.0):
        for _ in range(steps):
            xs = [x.detach().requires_grad_(True) for x in xs]
            with self.networks():
                energy = self.energy(xs)
            gradients = torch.autograd.grad(energy.float().sum(), xs)
            drifts = [0.5 * l * l * g for g in gradients]
            if clamp:
                drifts = [d.clamp_(-clamp, clamp) for d in drifts]
            xs = [x.detach() - d + n * torch.randn_like(x) for x, d in zip(xs, drifts)]
        return xs

    def nll(self, z, xs):
        """Squared error of all modalities, one value a row; rows are chains of the batch's tuples."""
        value = 0.0
        for decoder, x in zip(self.decoders, xs):
            with self.networks():
                mean = decoder(z)
            error = mean.float().view(-1, *x.shape) - x
            value = value + (error ** 2).flatten(2).sum(2).flatten()
        return value

    def posterior(self, z):
        """Energy of z given the data, and its gradient."""
        z = z.detach().requires_grad_(True)
        energy = self.nll(z, self.xs) + 0.5 * (z ** 2).sum(1)
        return energy.detach(), torch.autograd.grad(energy.sum(), z)[0]

    def langevin_z(self, z, steps, l=0.1):
        for _ in range(steps):
            z = z - 0.5 * l * l * self.posterior(z)[1] + l * torch.randn_like(z)
        return z

    def langevin_prior(self, z, steps, l=0.1, temperature=20.0):
        """Down U of what the decoders make of z, and the prior's energy."""
        for _ in range(steps):
            z = z.detach().requires_grad_(True)
            with self.networks():
                energy = self.energy([decoder(z) for decoder in self.decoders])
            energy = energy.float().sum() / temperature + 0.5 * (z ** 2).sum()
            z = z.detach() - 0.5 * l * l * torch.autograd.grad(energy, z)[0] + l * torch.randn_like(z)
        return z

    # ---- one training step with the library's default settings: sampled expert, MALA

    def prepare_step(self):
        a = self.args
        self.encoders = nn.ModuleList(Encoder(a.nf, a.latent) for _ in range(MODALITIES))
        self.encoders.to(memory_format=torch.channels_last)
        self.parts = {"energy": self.energy, "generator": self.decoders, "inference": self.encoders}
        self.optimisers = {name: torch.optim.Adam(part.parameters(), 1e-4) for name, part in self.parts.items()}

    def mala(self, z, steps, l=0.1):
        energy, gradient = self.posterior(z)
        for _ in range(steps):
            noise = torch.randn_like(z)
            y = z - 0.5 * l * l * gradient + l * noise
            energy_y, gradient_y = self.posterior(y)
            back = z - y + 0.5 * l * l * gradient_y
            log_a = energy - energy_y + 0.5 * (noise ** 2).sum(1) - (back ** 2).sum(1) / (2 * l * l)
            taken = torch.rand_like(log_a).log() < log_a
            z = torch.where(taken[:, None], y, z)
            energy, gradient = torch.where(taken, energy_y, energy), torch.where(taken[:, None], gradient_y, gradient)
        return z

    def experts(self, xs):
        pairs = []
        for encoder, x in zip(self.encoders, xs):
            with self.networks():
                mean, raw = encoder(x)
            pairs.append((mean.float(), F.softplus(raw.float()) + 0.02))
        return pairs

    @staticmethod
    def log_q(z, experts):
        terms = [(-0.5 * ((z - mean) / scale) ** 2 - scale.log()).sum(1) for mean, scale in experts]
        return torch.logsumexp(torch.stack(terms), 0)

    def update(self, name, loss):
        self.optimisers[name].zero_grad(set_to_none=True)
        loss.backward()
        self.optimisers[name].step()

    def train_step(self):
        a = self.args
        z_prior = torch.randn(a.batch, a.latent)
        with torch.no_grad(), self.networks():
            generated = [decoder(z_prior).float() for decoder in self.decoders]
        revised = self.langevin_x(generated, a.k_x, clamp=0.02)
        for part in self.parts.values():
            part.requires_grad_(True)
        experts = self.experts(self.xs)
        chosen = torch.randint(0, MODALITIES, (a.batch,))
        rows = torch.arange(a.batch)
        mean, scale = (torch.stack([pair[k] for pair in experts])[chosen, rows].detach() for k in (0, 1))
        self.decoders.requires_grad_(False)
        z = self.mala(mean + scale * torch.randn_like(mean), a.k_z)
        self.decoders.requires_grad_(True)
        self.update("generator", (self.nll(z, self.xs) + self.nll(z_prior, revised)).mean())
        self.update("inference", -(self.log_q(z, experts) + self.log_q(z_prior, self.experts(revised))).mean())
        with self.networks():
            u_data, u_revised = self.energy(self.xs), self.energy(revised)
        u_data, u_revised = u_data.float(), u_revised.float()
        penalty = 1e-5 * ((u_data ** 2).mean() + (u_revised ** 2).mean())
        self.update("energy", (u_data.mean() - u_revised.mean() + penalty) / 1e-4)
        for part in self.parts.values():
            part.requires_grad_(False)

    def noise(self):
        for _ in range(self.args.steps):
            for x in self.xs:
                torch.randn_like(x)

    def call(self):
        a = self.args
        if a.chain == "langevin_x":
            self.langevin_x(self.xs, a.steps)
        elif a.chain == "langevin_z":
            self.langevin_z(self.z, a.steps)
        elif a.chain == "langevin_prior":
            self.langevin_prior(self.z[:a.batch], a.steps)
        elif a.chain == "noise":
            self.noise()
        else:
            self.train_step()

    def graph(self):
        """The call as a CUDA graph of compiled networks."""
        self.energy = torch.compile(self.energy)
        self.decoders = nn.ModuleList(torch.compile(decoder) for decoder in self.decoders)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self.call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.call()

        def replay():
            graph.replay()
            torch.cuda.synchronize()
        return replay


def measure(call, args):
    """Milliseconds of a step, one for each round."""
    steps = 1 if args.chain == "step" else args.steps
    call()
    times, begin = [], time.monotonic()
    while not times or time.monotonic() - begin < args.seconds:
        start = time.monotonic()
        call()
        times.append((time.monotonic() - start) * 1e3 / steps)
    return times


def peaks(args):
    return dict(device_bytes=torch.cuda.max_memory_reserved() if args.device == "cuda" else 0,
                process_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def read_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--chain", choices=["langevin_x", "langevin_z", "langevin_prior", "step", "noise"],
                        default="langevin_x")
    parser.add_argument("--precision", choices=["f32", "tf32", "bf16"], default="f32")
    for name, value in dict(threads=2, batch=64, steps=5, nef=128, stem=16, nf=64, latent=32, k_x=30, k_z=20).items():
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--seconds", type=float, default=3.0)
    return parser.parse_args()


def main():
    args = read_arguments()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.precision != "f32"
    bench = Bench(args)
    times = measure(bench.graph() if args.device == "cuda" else bench.call, args)
    print(json.dumps(dict(
        chain=args.chain, backend="torch", device="torch " + torch.__version__, precision=args.precision,
        threads=args.threads, batch=args.batch, ms=round(statistics.median(times), 4), ms_min=round(min(times), 4),
        ms_max=round(max(times), 4), rounds=len(times), **peaks(args))))


if __name__ == "__main__":
    main()
