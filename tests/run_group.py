#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs one group of tests for tests/run.sh and counts what they report.

A test reports by lines "PASS name", "FAIL name" and "SKIP name: why" on its standard output. A test that crashes, runs
out of time, fails without a FAIL line or prints no result line at all counts as one failure under its own name. A test
without result lines that exits with 77 counts as skipped, its last line being the reason.

    run_group.py [options] GROUP --build DIR      every test that meson lists for that build folder
    run_group.py [options] GROUP --run NAME CMD   a shell command that prints result lines (may be repeated)
    run_group.py [options] GROUP --check NAME CMD a shell command judged by its exit status alone (may be repeated)

Everything goes to the log; failures and one line for the group go to standard output; "passed failed skipped" is
appended to the file of counts.
"""
import argparse
import concurrent.futures
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

RESULT = re.compile(r"^(PASS|FAIL|SKIP) (.*)$")
SKIPPED = 77


class Test:
    def __init__(self, name, command, env=None, workdir=None, parallel=True, by_status=False):
        self.name, self.command, self.env, self.workdir = name, command, env or {}, workdir
        self.parallel, self.by_status = parallel, by_status


def meson_tests(build, match, exclude):
    listed = json.loads(subprocess.run(["meson", "introspect", "--tests", build], check=True,
                                       stdout=subprocess.PIPE).stdout)
    tests = []
    for entry in listed:
        if match and not re.search(match, entry["name"]):
            continue
        if exclude and re.search(exclude, entry["name"]):
            continue
        folder = entry["workdir"] or build  # as meson test does
        tests.append(Test(entry["name"], entry["cmd"], entry["env"], folder, entry["is_parallel"]))
    return tests


def run(test, wrap, timeout):
    """Returns (exit status or None after a timeout, output, seconds)."""
    env = dict(os.environ)
    env.update(test.env)
    start = time.monotonic()
    process = subprocess.Popen(wrap + test.command, env=env, cwd=test.workdir, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        output, _ = process.communicate(timeout=timeout)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        status = None
    return status, output.decode("utf-8", "replace"), time.monotonic() - start


def how_it_ended(status, timeout):
    if status is None:
        return "ran longer than %d s" % timeout
    if status < 0:
        return "killed by %s" % signal.Signals(-status).name
    return "exited with status %d" % status


def judge(test, status, output, timeout):
    """Returns (passed, [failure texts], [skip texts])."""
    passed, failed, skipped = 0, [], []
    lines = output.splitlines()
    if test.by_status:
        if status == 0:
            return 1, [], []
        if status == SKIPPED:
            return 0, [], ["%s: %s" % (test.name, lines[-1] if lines else "no reason given")]
        tail = "".join("  %s\n" % line for line in lines[-15:])
        return 0, [tail + "FAIL %s: %s" % (test.name, how_it_ended(status, timeout))], []
    detail = []
    for line in lines:
        found = RESULT.match(line)
        if not found:
            detail.append(line)
            continue
        if found.group(1) == "PASS":
            passed += 1
        elif found.group(1) == "SKIP":
            skipped.append("%s/%s" % (test.name, found.group(2)))
        else:
            above = "".join("%s\n" % text for text in detail[-20:])
            failed.append(above + "FAIL %s/%s" % (test.name, found.group(2)))
        detail = []
    if status == SKIPPED and not (passed or failed or skipped):
        skipped.append("%s: %s" % (test.name, lines[-1] if lines else "no reason given"))
    elif status != 0 and (not failed or status is None or status < 0 or status > 1):
        tail = "".join("  %s\n" % line for line in lines[-15:])
        failed.append(tail + "FAIL %s: %s" % (test.name, how_it_ended(status, timeout)))
    elif not (passed or failed or skipped):
        failed.append("FAIL %s: printed no result line" % test.name)
    return passed, failed, skipped


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("group")
    parser.add_argument("--build")
    parser.add_argument("--match", help="only tests whose name matches")
    parser.add_argument("--exclude", help="no tests whose name matches")
    parser.add_argument("--run", nargs=2, action="append", default=[], metavar=("NAME", "CMD"))
    parser.add_argument("--check", nargs=2, action="append", default=[], metavar=("NAME", "CMD"))
    parser.add_argument("--wrap", default="", help="command put before each test, as 'valgrind -q'")
    parser.add_argument("--timeout", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--log", required=True)
    parser.add_argument("--counts", required=True)
    args = parser.parse_args()

    tests = meson_tests(args.build, args.match, args.exclude) if args.build else []
    tests += [Test(name, ["sh", "-c", command]) for name, command in args.run]
    tests += [Test(name, ["sh", "-c", command], by_status=True) for name, command in args.check]
    wrap = shlex.split(args.wrap)
    start = time.monotonic()
    totals = [0, 0, 0]

    def report(test, result, log):
        status, output, seconds = result
        passed, failed, skipped = judge(test, status, output, args.timeout)
        totals[0] += passed
        totals[1] += len(failed)
        totals[2] += len(skipped)
        log.write("---- %s: %s (%s, %.1f s)\n%s\n" % (args.group, test.name, how_it_ended(status, args.timeout),
                                                     seconds, output))
        log.flush()
        for text in failed:
            print(text, flush=True)

    with open(args.log, "a", encoding="utf-8") as log:
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            waiting = {pool.submit(run, test, wrap, args.timeout): test for test in tests if test.parallel}
            for done in concurrent.futures.as_completed(waiting):
                report(waiting[done], done.result(), log)
        for test in tests:
            if not test.parallel:
                report(test, run(test, wrap, args.timeout), log)
        if not tests:
            totals[1] += 1
            print("FAIL %s: no tests found" % args.group, flush=True)
        line = "%-28s %4d passed, %d failed, %d skipped (%.0f s)" % (args.group, *totals, time.monotonic() - start)
        log.write("==== %s\n\n" % line)
    print(line, flush=True)
    with open(args.counts, "a", encoding="utf-8") as counts:
        counts.write("%d %d %d\n" % tuple(totals))
    return 1 if totals[1] else 0


if __name__ == "__main__":
    sys.exit(main())
