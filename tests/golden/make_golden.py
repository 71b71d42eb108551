#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the golden vectors: what PyTorch, in float64, says about the polymnist networks, the chains and two training
steps. Needs Debian's python3-torch and python3-numpy, nothing else.

    python3 tests/golden/make_golden.py [FOLDER]     FOLDER: where to write, default this folder

test_golden.c reads the files; tests/golden/check_golden.py makes them again and compares. Noise is off: every number is
a pure function of this script. Tensor names with a prefix "weight/" are the library's own.
"""
import os
import random
import sys

import torch

import algorithm_torch as algorithm
import polymnist_torch
import safetensors_file

# Every size differs from every other, so that exchanged axes cannot go unnoticed.
SIZES = dict(modalities=3, channels=3, nf=6, nef=12, stem=5, latent=7)


TILT = dict(temperature=0.01, step_size=0.5)


def uniform(name, shape, low, high):
    """float64 values that float32 holds exactly, always the same for the same name."""
    source, count = random.Random(name), 1
    for size in shape:
        count *= size
    values = torch.tensor([source.uniform(low, high) for _ in range(count)])
    return values.float().double().reshape(shape)


def images(name, rows, size):
    return [uniform("%s %d" % (name, i), (rows, SIZES["channels"], size, size), 0.0, 1.0)
            for i in range(SIZES["modalities"])]


def channels_last(x):
    return x.detach().permute(0, 2, 3, 1)


def network_vectors():
    """Networks, one pass each, and two noiseless steps of each kind of chain at image size 28."""
    rows, size = 2, 28
    weights = polymnist_torch.Weights(seed=1)
    nets = polymnist_torch.Polymnist(weights, image=size, **SIZES)
    model = algorithm.Model(nets, [algorithm.Modality() for _ in range(SIZES["modalities"])])
    xs = images("networks", rows, size)
    out = {}

    inputs = [x.clone().requires_grad_(True) for x in xs]
    energy = nets.energy(inputs)
    gradients = torch.autograd.grad(energy.sum(), inputs)
    experts = [nets.encode(i, x) for i, x in enumerate(xs)]
    z = uniform("latent", (rows, SIZES["latent"]), -2.0, 2.0)
    decoded = nets.decode_all(z)
    out["energy"] = energy.detach()
    out["z"] = z
    for i in range(SIZES["modalities"]):
        out["x%d" % i] = channels_last(xs[i])
        out["energy_gradient%d" % i] = channels_last(gradients[i])
        out["mean%d" % i], out["scale%d" % i] = experts[i][0].detach(), model.scale(experts[i][1]).detach()
        out["decoded%d" % i] = channels_last(decoded[i])

    # step sizes that move a pixel by a good part of its range
    revised = algorithm.langevin_x(model, xs, 2, [10.0, 12.0, 14.0], clamped=(1,))
    bounded = algorithm.langevin_x(model, xs, 1, [12.0] * 3, clamp=0.03)
    for i in (0, 2):
        out["langevin_x%d" % i] = channels_last(revised[i])
    out["langevin_x_bounded0"] = channels_last(bounded[0])

    everything, latent = range(SIZES["modalities"]), SIZES["latent"]
    starts = uniform("chains", (3, rows, latent), -1.5, 1.5)
    out["start"] = starts

    def chains(count, observed, **options):
        return torch.stack([algorithm.langevin_z(model, xs, starts[e], observed, 2, 0.05, **options)
                            for e in range(count)])

    out["langevin_z_sum"] = chains(3, everything)
    out["langevin_z_mean"] = chains(3, everything, factor=1.0 / 3.0)
    out["langevin_z_subset"] = chains(2, (0, 2))
    out["langevin_z_one"] = chains(1, (1,))[0]
    out["langevin_z_clipped"] = chains(3, everything, norm_clip=0.05)
    out["langevin_z_tilted"] = chains(2, (0, 2), temperature=0.001)  # U counts, and no unit is near its kink

    # a temperature at which U moves z several times as far as the prior does
    out["tilted_energy"] = model.tilted_energy(starts[0], TILT["temperature"]).detach()
    out["langevin_prior"] = algorithm.langevin_z(model, xs, starts[0], (), steps=2, **TILT)
    return weights, out


# rate, beta1, beta2, epsilon. epsilon is about as large as a typical gradient, so that an update depends on the
# gradient's size and not only on its sign.
ADAM = {"energy": (0.01, 0.5, 0.9, 0.75), "generator": (0.02, 0.9, 0.99, 1.0), "inference": (0.03, 0.8, 0.999, 0.2)}
# Two settings, as mmebm_trainer_options, mmebm_model_options and mmebm_modality name them.
PLAIN = dict(
    k_x=3, l_x=4.0, drift_clamp=0.0, k_z=3, l_z=0.05, drift_norm_clip=0.0, reduction="sum", temperature=0.05,
    weight_reconstruction=1.0, weight_synthesis=1.0, weight_inference=1.0, weight_inference_revised=1.0,
    energy_penalty=0.0)
EVERY_OPTION = dict(
    k_x=2, l_x=6.0, drift_clamp=0.02, k_z=2, l_z=0.1, drift_norm_clip=0.06, reduction="mean", temperature=0.1,
    weight_reconstruction=0.7, weight_synthesis=1.5, weight_inference=0.8, weight_inference_revised=0.4,
    energy_penalty=0.01)


def training_vectors(out, case, options, clips, **model_options):
    """Two training steps at image size 12; diagnostics of both and the weights after them."""
    rows, size, steps = 4, 12, 2
    weights = polymnist_torch.Weights(seed=2)
    nets = polymnist_torch.Polymnist(weights, image=size, **SIZES)
    model = algorithm.Model(nets, **model_options)
    data = [images("training %d" % t, rows, size) for t in range(steps)]
    priors = [uniform("prior %d" % t, (rows, SIZES["latent"]), -2.0, 2.0) for t in range(steps)]
    nets.energy(data[0]), nets.decode_all(priors[0]), [nets.encode(i, x) for i, x in enumerate(data[0])]
    before = {name: weights.in_library_layout(name).clone() for name in weights.tensors}

    optimisers = {part: algorithm.Adam(weights.part(prefix), *ADAM[part], clip=clips.get(part, 0.0))
                  for part, prefix in (("energy", "energy"), ("generator", "decoder"), ("inference", "encoder"))}
    for t in range(steps):
        diagnostics = algorithm.train_step(model, optimisers, data[t], priors[t], options)
        for name, value in diagnostics.items():
            out["%s/step%d/%s" % (case, t, name)] = torch.tensor(value)
        out["step%d/prior" % t] = priors[t]
        for i, x in enumerate(data[t]):
            out["step%d/x%d" % (t, i)] = channels_last(x)
    for name, value in before.items():
        out["weight/" + name] = value
    for name in weights.tensors:
        if case == "every_option" and "coder0" in name:
            continue  # one modality less keeps the file small
        # the change of the weights, which says more than the weights
        out["%s/change/%s" % (case, name)] = weights.in_library_layout(name) - before[name]


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    torch.set_num_threads(1)
    weights, vectors = network_vectors()
    for name in weights.tensors:
        vectors["weight/" + name] = weights.in_library_layout(name)
    safetensors_file.write(os.path.join(folder, "networks.safetensors"), vectors)

    vectors = {}
    modality = algorithm.Modality
    training_vectors(vectors, "plain", PLAIN, {}, modalities=[modality(), modality(), modality()])
    training_vectors(vectors, "every_option", EVERY_OPTION, {"energy": 20.0, "generator": 300.0, "inference": 5.0},
                     modalities=[modality(scale=0.9, weight=1.2), modality("laplace", 0.75), modality(weight=0.5)],
                     prior="laplace", prior_scale=0.8, posterior="laplace", posterior_scale="softmax", floor=0.02)
    safetensors_file.write(os.path.join(folder, "training.safetensors"), vectors)


if __name__ == "__main__":
    main()
