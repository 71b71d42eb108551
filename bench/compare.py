#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs mmebm-bench and its PyTorch peer in turn and prints medians, ranges and ratios.

    python3 bench/compare.py BUILD_FOLDER [--rounds 5] [--chains langevin_x,langevin_z] [--precisions f32,bf16] [--save]

One round starts each program once, one after the other, so that both meet the same state of the machine; a ratio is
taken within a round (peer's time over ours: above 1 we are faster). --busy adds a process that keeps one core busy, and
reports how much slower each became. --save writes all measurements to bench/results/<date>-<processor>.jsonl.
"""
import argparse
import contextlib
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
# Debian's python3-torch belongs to Debian's Python.
PEER_PYTHON = "/usr/bin/python3" if os.path.exists("/usr/lib/python3/dist-packages/torch") else sys.executable
PEER = [PEER_PYTHON, os.path.join(HERE, "peer_torch.py")]
# Plain PyTorch falls back to AVX2 kernels and returns every large tensor's memory to the system; this is the fair peer.
PEER_ENVIRONMENT = {"ATEN_CPU_CAPABILITY": "avx512", "MALLOC_MMAP_THRESHOLD_": "4294967296",
                    "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456"}


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as stream:
        text = stream.read()
    name = re.search(r"model name\s*: (.*)", text)
    features = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if re.search(r"\b%s\b" % f, text)]
    return "%s (%s)" % (name.group(1).strip() if name else "unknown processor", " ".join(features))


@contextlib.contextmanager
def busy_process(wanted):
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


def run(command, environment=None):
    """The JSON line that a program prints; None if it fails, with its words on the error output."""
    done = subprocess.run(command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.stderr.write("%s: %s\n" % (" ".join(command), done.stderr.strip().splitlines()[-1:]))
        return None
    return json.loads(done.stdout.splitlines()[-1])


def text_of(values, digits=2):
    return "%.*f (%.*f..%.*f)" % (digits, statistics.median(values), digits, min(values), digits, max(values))


class Comparison:
    def __init__(self, args):
        self.args, self.measured = args, []
        self.program = os.path.join(args.build, "bench", "mmebm-bench")
        modules = os.path.join(os.path.abspath(args.build), "backends", args.backend)
        self.environment = {} if "MMEBM_BACKEND_DIR" in os.environ else {"MMEBM_BACKEND_DIR": modules}

    def both(self, chain, precision, busy):
        """(ours, peer's) measurements of one round."""
        common = ["--chain", chain, "--precision", precision, "--threads", str(self.args.threads), "--batch",
                  str(self.args.batch), "--seconds", str(self.args.seconds)]
        steps = [] if chain == "step" else ["--steps", str(self.args.steps)]
        pair = []
        with busy_process(busy):
            on_gpu = self.args.backend == "cuda"  # then both keep their data there
            ours = [self.program, "--backend", self.args.backend] + ["--memory", "device"] * on_gpu
            pair.append(run(ours + common + steps, self.environment))
            pair.append(run(PEER + ["--device", "cuda"] * on_gpu + common + steps, PEER_ENVIRONMENT))
        for line in pair:
            if line:
                line["busy"] = int(busy)
                self.measured.append(line)
        return pair

    def row(self, chain, precision, busy):
        pairs = [self.both(chain, precision, busy) for _ in range(self.args.rounds)]
        pairs = [pair for pair in pairs if all(pair)]
        if not pairs:
            return None
        ours, peer = [a["ms"] for a, _ in pairs], [b["ms"] for _, b in pairs]
        memory = "device_bytes" if self.args.backend == "cuda" else "process_bytes"
        print("| %s%s | %s | %s | %s | %s | %.0f | %s |" % (
            chain, ", one core busy" if busy else "", precision, text_of(ours), text_of(peer),
            text_of([b / a for a, b in zip(ours, peer)]), statistics.median(a["gflops"] for a, _ in pairs),
            ", ".join("%.0f" % (side[memory] / 2 ** 20) for side in pairs[-1])), flush=True)
        return statistics.median(ours), statistics.median(peer)

    def table(self):
        a = self.args
        print("%s, %s, %d threads, batch %d, %d rounds\n" % (
            datetime.date.today(), processor(), a.threads, a.batch, a.rounds))
        columns = ["chain", "precision", "libmmebm, ms a step", "PyTorch, ms a step", "PyTorch / libmmebm", "GFLOP/s",
                   "peak MiB of %s: ours, PyTorch's" % ("the device" if a.backend == "cuda" else "the process")]
        print("| %s |\n|%s" % (" | ".join(columns), " --- |" * len(columns)), flush=True)
        slower = []
        for chain in a.chains.split(","):
            for precision in a.precisions.split(","):
                idle = self.row(chain, precision, False)
                if a.busy and idle:
                    loaded = self.row(chain, precision, True)
                    if loaded:
                        slower.append((chain, precision, loaded[0] / idle[0], loaded[1] / idle[1]))
        for chain, precision, ours, peer in slower:
            print("\n%s %s with one core busy: libmmebm %.2f times slower, PyTorch %.2f times" % (
                chain, precision, ours, peer), end="")
        print()

    def start_time(self):
        """Wall time of a program that loads a model and draws 16 tuples, from fork to exit."""
        with tempfile.TemporaryDirectory() as folder:
            model = os.path.join(folder, "model.safetensors")
            environment = {**os.environ, **self.environment}
            common = [self.program, "--backend", self.args.backend, "--model", model, "--batch", "16"]
            subprocess.run(common + ["--chain", "save"], env=environment, check=True)
            times = []
            for _ in range(11):
                start = time.monotonic()
                subprocess.run(common + ["--chain", "start"], env=environment, check=True)
                times.append(time.monotonic() - start)
        print("load a model, sample 16 tuples, exit: %s s" % text_of(times, 3))
        self.measured.append({"chain": "start", "backend": self.args.backend, "seconds": times})

    def save(self):
        name = re.sub(r"[^a-z0-9]+", "-", processor().split("(")[0].lower()).strip("-")
        path = os.path.join(HERE, "results", "%s-%s.jsonl" % (datetime.date.today(), name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "a", encoding="utf-8") as stream:
            for line in self.measured:
                stream.write(json.dumps({"date": str(datetime.date.today()), "processor": processor(), **line}) + "\n")
        print("saved to", os.path.relpath(path))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chains", default="langevin_x,langevin_z")
    parser.add_argument("--precisions", default="f32,bf16")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--save", action="store_true")
    comparison = Comparison(parser.parse_args())
    comparison.table()
    comparison.start_time()
    if comparison.args.save:
        comparison.save()


if __name__ == "__main__":
    main()
