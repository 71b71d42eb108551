# SPDX-License-Identifier: Apache-2.0
"""The chains and the whole training step of rulings section K in PyTorch, without noise."""
import math

import torch
import torch.nn.functional as F

GAUSSIAN, LAPLACE = "gaussian", "laplace"


class Modality:
    def __init__(self, likelihood=GAUSSIAN, scale=math.sqrt(0.5), weight=1.0):
        self.likelihood, self.scale, self.weight = likelihood, scale, weight

    def nll(self, x, mean):
        """Negative log-likelihood of each row up to its constant (ruling B1)."""
        error = (x - mean).flatten(1)
        if self.likelihood == LAPLACE:
            return self.weight * error.abs().sum(1) / self.scale
        return self.weight * (error ** 2).sum(1) / (2 * self.scale ** 2)


class Model:
    """Networks with what mmebm_model_options and mmebm_modality say about them."""

    def __init__(self, nets, modalities, prior=GAUSSIAN, prior_scale=1.0, posterior=GAUSSIAN,
                 posterior_scale="softplus", floor=1e-6):
        self.nets, self.modalities = nets, modalities
        self.prior, self.prior_scale, self.posterior = prior, prior_scale, posterior
        self.posterior_scale, self.floor = posterior_scale, floor

    def nll(self, xs, z, observed):
        return sum(self.modalities[i].nll(xs[i], self.nets.decode(i, z)) for i in observed)

    def prior_energy(self, z):
        if self.prior == LAPLACE:
            return z.abs().sum(1) / self.prior_scale
        return (z ** 2).sum(1) / (2 * self.prior_scale ** 2)

    def posterior_energy(self, xs, z, observed):
        """Eqns 8 and 17."""
        return self.nll(xs, z, observed) + self.prior_energy(z)

    def tilt(self, z, temperature):
        return self.nets.energy(self.nets.decode_all(z)) / temperature

    def tilted_energy(self, z, temperature):
        return self.tilt(z, temperature) + self.prior_energy(z)

    def scale(self, raw):
        """Ruling C1."""
        if self.posterior_scale == "exp_half":
            return torch.exp(raw / 2) + self.floor
        if self.posterior_scale == "softmax":
            return raw.shape[1] * torch.softmax(raw, 1) + self.floor
        return F.softplus(raw) + self.floor

    def log_q(self, z, means, raws):
        """log q(z|x) of each row: log of the mean over experts (Eqn 5, rulings C2 and C3)."""
        terms = []
        for mean, raw in zip(means, raws):
            scale = self.scale(raw)
            if self.posterior == LAPLACE:
                term = -(z - mean).abs() / scale - torch.log(2 * scale)
            else:
                term = -(z - mean) ** 2 / (2 * scale ** 2) - torch.log(scale) - 0.5 * math.log(2 * math.pi)
            terms.append(term.sum(1))
        return torch.logsumexp(torch.stack(terms), 0) - math.log(len(terms))


def bounded(drift, clamp, norm_clip):
    """drift: list of tensors, one chain a row."""
    if clamp:
        drift = [d.clamp(-clamp, clamp) for d in drift]
    if norm_clip:
        norm = torch.sqrt(sum((d ** 2).flatten(1).sum(1) for d in drift))
        factor = torch.clamp(norm_clip / norm, max=1.0)
        drift = [d * factor.reshape(-1, *[1] * (d.dim() - 1)) for d in drift]
    return drift


def langevin_x(model, xs, steps, step_sizes, clamp=0.0, clamped=()):
    """Eqn 3, all modalities at once (ruling A11); modalities in `clamped` stay as they are."""
    for _ in range(steps):
        xs = [x.detach().requires_grad_(True) for x in xs]
        gradients = torch.autograd.grad(model.nets.energy(xs).sum(), xs)
        drift = bounded([l ** 2 / 2 * g for l, g in zip(step_sizes, gradients)], clamp, 0.0)
        xs = [x.detach() if i in clamped else x.detach() - d for i, (x, d) in enumerate(zip(xs, drift))]
    return xs


def langevin_z(model, xs, z, observed, steps, step_size, factor=1.0, norm_clip=0.0, temperature=math.inf):
    """Eqns 8 and 17; factor: 1, or 1 / experts for Listing 1's mean over chains (ruling B4). temperature: of the energy
    that tilts the prior; with nothing observed then, langevin_prior."""
    for _ in range(steps):
        z = z.detach().requires_grad_(True)
        energy = model.posterior_energy(xs, z, observed)
        if temperature < math.inf:
            energy = energy + model.tilt(z, temperature)
        gradient, = torch.autograd.grad(energy.sum(), z)
        drift, = bounded([factor * step_size ** 2 / 2 * gradient], 0.0, norm_clip)
        z = z.detach() - drift
    return z


class Adam:
    """Kingma and Ba, after scaling the gradient of the whole network to norm `clip`."""

    def __init__(self, tensors, rate, beta1, beta2, epsilon, clip=0.0):
        self.tensors, self.rate, self.beta1, self.beta2 = tensors, rate, beta1, beta2
        self.epsilon, self.clip, self.t = epsilon, clip, 0
        self.m = [torch.zeros_like(t) for t in tensors]
        self.v = [torch.zeros_like(t) for t in tensors]

    def step(self, loss):
        gradients = torch.autograd.grad(loss, self.tensors)
        norm = math.sqrt(sum((g ** 2).sum().item() for g in gradients))
        factor = min(1.0, self.clip / norm) if self.clip else 1.0
        self.t += 1
        with torch.no_grad():
            for tensor, gradient, m, v in zip(self.tensors, gradients, self.m, self.v):
                gradient = factor * gradient
                m.mul_(self.beta1).add_(gradient, alpha=1 - self.beta1)
                v.mul_(self.beta2).add_(gradient ** 2, alpha=1 - self.beta2)
                step = m / (1 - self.beta1 ** self.t) / (torch.sqrt(v / (1 - self.beta2 ** self.t)) + self.epsilon)
                tensor.sub_(self.rate * step)
        return norm


def train_step(model, optimisers, xs, z_prior, o):
    """Rulings section K with chains that start at the experts' means. o: dict of options under the library's names.
    Returns the diagnostics by name."""
    nets, everything = model.nets, range(len(xs))
    with torch.no_grad():
        generated = nets.decode_all(z_prior)
    revised = langevin_x(model, generated, o["k_x"], [o["l_x"]] * len(xs), o["drift_clamp"])
    experts = [nets.encode(i, x) for i, x in enumerate(xs)]
    means, raws = [e[0] for e in experts], [e[1] for e in experts]
    factor = 1.0 / len(xs) if o["reduction"] == "mean" else 1.0
    chains = [langevin_z(model, xs, m.detach(), everything, o["k_z"], o["l_z"], factor, o["drift_norm_clip"])
              for m in means]

    reconstruction = sum(model.nll(xs, z, everything) for z in chains).mean() / len(chains)
    synthesis = model.nll(revised, z_prior, everything).mean()
    loss_generator = o["weight_reconstruction"] * reconstruction + o["weight_synthesis"] * synthesis

    log_q_data = sum(model.log_q(z, means, raws) for z in chains).mean() / len(chains)
    experts = [nets.encode(i, x) for i, x in enumerate(revised)]
    log_q_revised = model.log_q(z_prior, [e[0] for e in experts], [e[1] for e in experts]).mean()
    loss_inference = -o["weight_inference"] * log_q_data - o["weight_inference_revised"] * log_q_revised

    u_data, u_revised = nets.energy(xs), nets.energy(revised)
    de = u_data.mean() - u_revised.mean()
    penalty = o["energy_penalty"] * ((u_data ** 2).mean() + (u_revised ** 2).mean())
    loss_energy = (de + penalty) / o["temperature"]

    diagnostics = {
        "reconstruction": reconstruction, "synthesis": synthesis, "log_q_data": log_q_data,
        "log_q_revised": log_q_revised, "energy_data": u_data.mean(), "energy_revised": u_revised.mean(),
        "energy_square_data": (u_data ** 2).mean(), "energy_square_revised": (u_revised ** 2).mean(),
        "displacement": sum(((a - b) ** 2).flatten(1).sum(1) for a, b in zip(revised, generated)).mean(),
        "latent_norm": sum(z.norm(dim=1) for z in chains).mean() / len(chains),
        "loss_generator": loss_generator, "loss_inference": loss_inference, "loss_energy": loss_energy,
        "dE_raw": de, "dE_scaled": de / o["temperature"],
        "log_p_revised": model.nll(generated, z_prior, everything).mean() - synthesis,
    }
    for part, loss in (("generator", loss_generator), ("inference", loss_inference), ("energy", loss_energy)):
        diagnostics["gradient_norm_" + part] = optimisers[part].step(loss)
    return {name: float(value) for name, value in diagnostics.items()}
