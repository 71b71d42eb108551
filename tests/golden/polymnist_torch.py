# SPDX-License-Identifier: Apache-2.0
"""The polymnist networks in PyTorch, in float64, from Table 6 and rulings E1-E9 and E14. Nothing here knows the library
but the names of its tensors and its layouts: channels last, so a kernel is [out, height, width, in] and a map that is
flattened runs over height, width, channel."""
import random

import torch
import torch.nn.functional as F


class Weights:
    """Draws a tensor when a layer first asks for it, always the same for the same name and shape."""

    def __init__(self, seed):
        self.seed = seed
        self.tensors = {}   # library's name -> tensor in PyTorch's layout
        self.layouts = {}   # library's name -> function to the library's layout

    def get(self, name, shape, fan_in, to_library):
        if name not in self.tensors:
            source = random.Random("%d %s" % (self.seed, name))
            bound = (3.0 / fan_in) ** 0.5
            count = 1
            for size in shape:
                count *= size
            values = torch.tensor([source.uniform(-bound, bound) for _ in range(count)])
            # what the library will hold: float32
            self.tensors[name] = values.float().double().reshape(shape).requires_grad_(True)
            self.layouts[name] = to_library
        return self.tensors[name]

    def conv(self, x, name, out, kernel=3, bias=True):
        fan_in = x.shape[1] * kernel * kernel
        weight = self.get(name + ".weight", (out, x.shape[1], kernel, kernel), fan_in, lambda w: w.permute(0, 2, 3, 1))
        shift = self.get(name + ".bias", (out,), 100.0, lambda b: b) if bias else None
        return F.conv2d(x, weight, shift, padding=kernel // 2)

    def linear(self, x, name, out, bias=True, from_map=None, to_map=None):
        """from_map, to_map: (channels, height, width) of a map that was flattened to x or that the result will be."""
        def rows(w):  # of the result
            return w.reshape(*to_map, -1).permute(1, 2, 0, 3).reshape(out, -1) if to_map else w

        def weight_layout(w):
            if from_map:
                w = w.reshape(out, *from_map).permute(0, 2, 3, 1).reshape(out, -1)
            return rows(w)

        weight = self.get(name + ".weight", (out, x.shape[1]), x.shape[1], weight_layout)
        shift = self.get(name + ".bias", (out,), 100.0, lambda b: rows(b.reshape(-1, 1)).reshape(-1)) if bias else None
        return F.linear(x, weight, shift)

    def part(self, prefix):
        """The tensors of one network, in order of name."""
        return [self.tensors[name] for name in sorted(self.tensors) if name.startswith(prefix)]

    def in_library_layout(self, name):
        return self.layouts[name](self.tensors[name].detach()).contiguous()


class Polymnist:
    def __init__(self, weights, modalities, image, channels, nf, nef, stem, latent):
        self.w, self.modalities, self.image, self.channels = weights, modalities, image, channels
        self.nf, self.nef, self.stem, self.latent = nf, nef, stem, latent

    # ---- energy: rulings E1-E9

    def energy_block(self, x, name, out, down, head):
        branch = x if head else F.relu(x)
        branch = self.w.conv(branch, name + ".conv0", out, bias=False)
        branch = self.w.conv(F.relu(branch), name + ".conv1", out, bias=False)
        shortcut = x
        if down or x.shape[1] != out:
            shortcut = self.w.conv(shortcut, name + ".shortcut", out, kernel=1, bias=False)
        if down:
            branch, shortcut = F.avg_pool2d(branch, 2), F.avg_pool2d(shortcut, 2)
        return branch + shortcut

    def energy(self, xs):
        h = torch.cat([self.w.conv(x, "energy.stem%d" % i, self.stem, bias=False) for i, x in enumerate(xs)], 1)
        for number, (down, head) in enumerate([(True, True), (True, False), (False, False), (False, False)], 1):
            h = self.energy_block(h, "energy.block%d" % number, self.nef, down, head)
        return self.w.linear(F.relu(h).mean((2, 3)), "energy.head", 1, bias=False)[:, 0]

    # ---- encoders and decoders: ruling E14

    def residual(self, x, name, out):
        hidden = min(x.shape[1], out)
        branch = self.w.conv(F.leaky_relu(x, 0.2), name + ".conv0", hidden)
        branch = self.w.conv(F.leaky_relu(branch, 0.2), name + ".conv1", out)
        shortcut = x if x.shape[1] == out else self.w.conv(x, name + ".shortcut", out, kernel=1, bias=False)
        return shortcut + 0.1 * branch

    def encode(self, i, x):
        name = "encoder%d" % i
        h = self.w.conv(x, name + ".image", self.nf)
        h = F.avg_pool2d(self.residual(h, name + ".block1", self.nf), 3, 2, 1)
        h = F.avg_pool2d(self.residual(h, name + ".block2", 2 * self.nf), 3, 2, 1)
        h = self.residual(h, name + ".block3", 4 * self.nf)
        flat, shape = h.flatten(1), tuple(h.shape[1:])
        return tuple(self.w.linear(flat, name + head, self.latent, from_map=shape)
                     for head in (".head_mean", ".head_scale"))

    def decode(self, i, z):
        name = "decoder%d" % i
        shape = (4 * self.nf, self.image // 4, self.image // 4)
        h = self.w.linear(z, name + ".start", shape[0] * shape[1] * shape[2], to_map=shape).reshape(-1, *shape)
        h = F.interpolate(self.residual(h, name + ".block1", 2 * self.nf), scale_factor=2, mode="nearest")
        h = F.interpolate(self.residual(h, name + ".block2", self.nf), scale_factor=2, mode="nearest")
        h = self.residual(h, name + ".block3", self.nf)
        return self.w.conv(F.leaky_relu(h, 0.2), name + ".image", self.channels)

    def decode_all(self, z):
        return [self.decode(i, z) for i in range(self.modalities)]
