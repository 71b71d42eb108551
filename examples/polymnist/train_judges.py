#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Trains the judges: one digit classifier for each PolyMNIST modality, on the full MNIST files.

usage: train_judges.py FOLDER_OF_THE_FOUR_MNIST_FILES FOLDER_OF_THE_PHOTOGRAPHS OUT_FOLDER [MODALITY ...]

Every training picture gets a fresh crop of its photograph in every epoch; the test pictures (t10k, 10 000 of them) are
made once. Writes OUT_FOLDER/judge_<modality>.f32, the raw weights in the order and layout that make_judge.c wants, and
prints the test accuracy of the weights as stored (rounded to bf16).
Needs Debian's python3-torch, python3-numpy and python3-pil. make_judge then turns each .f32 into a network file.
"""
import gzip
import os
import sys
import time

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

EPOCHS = 8
BATCH = 128
SIZE = 28


def read_mnist(folder, part):
    with gzip.open(os.path.join(folder, f"{part}-images-idx3-ubyte.gz")) as f:
        images = np.frombuffer(f.read(), np.uint8, offset=16).reshape(-1, SIZE, SIZE)
    with gzip.open(os.path.join(folder, f"{part}-labels-idx1-ubyte.gz")) as f:
        labels = np.frombuffer(f.read(), np.uint8, offset=8)
    return torch.from_numpy(images > 128), torch.from_numpy(labels.astype(np.int64))


def paint(photo, digits, random):
    """A random crop under every digit, colours inverted where the digit is: floats [n, 3, 28, 28] in [0, 1]."""
    height, width, _ = photo.shape
    y = torch.from_numpy(random.integers(0, height - SIZE, len(digits)))
    x = torch.from_numpy(random.integers(0, width - SIZE, len(digits)))
    step = torch.arange(SIZE)
    crop = photo[(y[:, None] + step)[:, :, None], (x[:, None] + step)[:, None, :]]
    crop = torch.where(digits[..., None], 255 - crop, crop)
    return crop.permute(0, 3, 1, 2).float().div(255).contiguous(memory_format=torch.channels_last)


class Judge(nn.Module):
    """The layers of make_judge.c."""

    def __init__(self):
        super().__init__()
        self.conv = nn.ModuleList([nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, 1, 1),
                                   nn.Conv2d(32, 48, 3, 2, 1)])
        self.linear = nn.Linear(48 * 49, 10)

    def forward(self, x):
        for conv in self.conv:
            x = F.relu(conv(x))
        x = x.permute(0, 2, 3, 1).flatten(1)  # channels last, as the library flattens
        return self.linear(F.dropout(x, 0.3, self.training))


def accuracy(judge, images, labels):
    judge.eval()
    with torch.no_grad():
        right = sum((judge(x).argmax(1) == y).sum().item() for x, y in zip(images.split(1000), labels.split(1000)))
    judge.train()
    return right / len(labels)


def train(photo, digits, labels, test_images, test_labels, seed):
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    judge = Judge().to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(judge.parameters(), lr=2e-3)
    per_epoch = len(labels) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=EPOCHS * per_epoch, pct_start=0.2)
    for epoch in range(EPOCHS):
        start, total = time.time(), 0.0
        order = torch.from_numpy(random.permutation(len(labels)))
        for step in range(per_epoch):
            rows = order[step * BATCH:(step + 1) * BATCH]
            loss = F.cross_entropy(judge(paint(photo, digits[rows], random)), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"  epoch {epoch + 1}: loss {total / per_epoch:.4f}, {time.time() - start:.0f} s, "
              f"test {accuracy(judge, test_images, test_labels):.4f}", flush=True)
    return judge


def main():
    mnist, photos, target = sys.argv[1:4]
    digits, labels = read_mnist(mnist, "train")
    test_digits, test_labels = read_mnist(mnist, "t10k")
    for modality in [int(m) for m in sys.argv[4:]] or range(5):
        picture = Image.open(os.path.join(photos, f"background_{modality}.jpg")).convert("RGB")
        photo = torch.from_numpy(np.array(picture))
        test_images = paint(photo, test_digits, np.random.default_rng(1000 + modality))
        print(f"modality {modality}", flush=True)
        judge = train(photo, digits, labels, test_images, test_labels, modality)
        with torch.no_grad():
            for p in judge.parameters():
                p.copy_(p.bfloat16().float())
        print(f"modality {modality}: accuracy {accuracy(judge, test_images, test_labels):.4f}", flush=True)
        tensors = []
        for conv in judge.conv:
            tensors += [conv.weight.detach().permute(0, 2, 3, 1).contiguous(), conv.bias.detach()]
        tensors += [judge.linear.weight.detach(), judge.linear.bias.detach()]
        with open(os.path.join(target, f"judge_{modality}.f32"), "wb") as f:
            for t in tensors:
                f.write(t.numpy().astype("<f4").tobytes())


main()
