#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Every test of libmmebm, from a Debian 12 with nothing installed:
#
#     sh tests/run.sh              all groups
#     sh tests/run.sh ordinary abi only these (names: the list at the end of this file)
#
# Installs the Debian packages that are missing (as root or through sudo), builds in build-test/, prints failures and
# one line for each group, and ends with "N passed, N failed, N skipped". What cannot run here is counted as skipped and
# says why. Details: build-test/log.txt.
set -u
cd "$(dirname "$0")/.." || exit 1
root=$(pwd)
work=$root/build-test
log=$work/log.txt
counts=$work/counts.txt
python=/usr/bin/python3
[ -x "$python" ] || python=python3
export PYTHONDONTWRITEBYTECODE=1
mkdir -p "$work"
: >"$log"
: >"$counts"

# ---- packages. Without the first list nothing can run; what needs one of the second is skipped without it.
needed="gcc libc6-dev meson ninja-build pkg-config zlib1g-dev libjsmn-dev python3 binutils"
useful="g++ clang make libdnnl-dev libpng-dev libjpeg-dev valgrind abigail-tools locales git
    python3-numpy python3-torch python3-pip"

missing() {
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || printf ' %s' "$package"
    done
}

install_packages() {
    command -v dpkg-query >/dev/null || return 0
    wanted=$(missing $needed $useful)
    [ -n "$wanted" ] || return 0
    as_root=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { echo "not installed, and neither root nor sudo here:$wanted"; return 0; }
        as_root=sudo
    fi
    echo "installing Debian packages:$wanted"
    {
        $as_root apt-get update
        # all at once; if one cannot be had, each on its own
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $wanted ||
            for package in $wanted; do
                $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$package"
            done
    } >>"$log" 2>&1
}

# Debian 12 has no package of Python's safetensors, the outside reader of our files. Its tests are skipped without it.
fetch_safetensors() {
    PYTHONPATH=$work/python
    export PYTHONPATH
    [ -d "$work/python/safetensors" ] ||
        "$python" -m pip install -q --no-deps --target "$work/python" safetensors >>"$log" 2>&1
}

# ---- how groups are run and counted
run_group() { # GROUP options of tests/run_group.py, which ends with 0 or 1 once it has counted
    "$python" tests/run_group.py --log "$log" --counts "$counts" "$@"
    [ $? -le 1 ] || fail_group "$1" "tests/run_group.py ended early"
}

skip_group() { # GROUP REASON
    echo "SKIP $1: $2" | tee -a "$log"
    echo "0 0 1" >>"$counts"
}

fail_group() { # GROUP REASON
    echo "FAIL $1: $2" | tee -a "$log"
    echo "0 1 0" >>"$counts"
}

finish() {
    awk '{ p += $1; f += $2; s += $3 }
         END { printf "%d passed, %d failed, %d skipped\n", p, f, s; exit f > 0 || p == 0 }' "$counts"
    exit $?
}

have() { command -v "$1" >/dev/null 2>&1; }

# configure FOLDER, then options of meson setup. Warnings are errors in every build of ours.
configure() {
    folder=$1
    shift
    if [ -f "$folder/build.ninja" ]; then
        meson setup --reconfigure "$folder" -Dwerror=true "$@" >>"$log" 2>&1
    else
        meson setup "$folder" -Dwerror=true "$@" >>"$log" 2>&1
    fi
}

build() { # FOLDER options: configures and compiles; its output goes to the log
    echo "---- build $1" >>"$log"
    configure "$@" && ninja -C "$1" >>"$log" 2>&1
}

# ---- groups
group_ordinary() {
    ls "$work"/main/backends/cpu/mmebm-cpu-*.so >/dev/null 2>&1 ||
        skip_group "cpu backend" "not built: libdnnl-dev is not installed"
    # what tiles-* test is in conformance-cpu-tiles too
    run_group "ordinary suite" --build "$work/main" --exclude '^(abi|tiles)-'
}

# The suite once more under gcc's sanitizers: interface, laws, files, and convolutions on tiles in plain C.
group_sanitizers() {
    if ! build "$work/sanitizers" --buildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false \
        -Dgpu=disabled -Dbench=false; then
        fail_group "sanitizers" "the build failed, see the log"
        return
    fi
    ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 \
    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
        run_group "address and undefined" --build "$work/sanitizers" --timeout 600 \
            --match '^(api|laws|files|fuzz|tiles)-'
}

# Two contexts in two threads, and the workers inside one. oneDNN is not instrumented: its start-up of static objects,
# which the compiler guards, would be taken for a race.
group_thread_sanitizer() {
    if build "$work/thread-sanitizer" --buildtype=debugoptimized -Db_sanitize=thread -Db_lundef=false \
        -Dgpu=disabled -Dbench=false; then
        TSAN_OPTIONS=halt_on_error=1:ignore_noninstrumented_modules=1 \
            run_group "thread sanitizer" --build "$work/thread-sanitizer" --timeout 600 \
            --match '^(api-threads|laws-splits|laws-chains|golden)(-cpu)?$'
    else
        fail_group "thread sanitizer" "the build failed, see the log"
    fi
}

# Memory checks on the reference backend: without a module folder the tests find no other.
group_valgrind() {
    have valgrind || { skip_group "valgrind" "valgrind is not installed"; return; }
    leaks="--leak-check=full --errors-for-leak-kinds=definite,possible"
    MMEBM_BACKEND_DIR=$work/no-modules run_group "valgrind" --build "$work/main" --timeout 900 \
        --match '^(api|files|fuzz)-' --exclude='-(cpu|cuda|devices|python)$' \
        --wrap "valgrind -q --error-exitcode=99 $leaks"
}

group_clang() {
    have clang || { skip_group "clang" "clang is not installed"; return; }
    if CC=clang CXX=clang++ build "$work/clang" --buildtype=debugoptimized -Dgpu=disabled; then
        CC=clang run_group "clang, warnings as errors" --check clang_build "ninja -C '$work/clang'"
    else
        fail_group "clang" "the build failed, see the log"
    fi
}

# The header alone, the public symbols, the frozen layout; the built library's size and its globals.
group_abi() {
    run_group "header, symbols, layout" --build "$work/main" --match '^abi-' \
        --check library_under_400_kB "sh tests/repository/check_size.sh '$work/main/libmmebm.so' 400000" \
        --check no_writable_globals "sh tests/repository/check_globals.sh '$work/main/libmmebm.a'"
}

# Programs, examples and the README outside the tree, against an installed copy.
group_install() {
    run_group "install" --timeout 600 --run install "sh tests/install/check_install.sh '$work/main'" \
        --run outside "sh tests/repository/check_outside.sh '$work/main'"
}

# Independent readings of the same numbers and files, in Python.
group_witnesses() {
    run_group "Python witnesses" --timeout 600 --run golden "$python tests/golden/check_golden.py"
}

# The cpu backend with oneDNN 3.x, which Debian 12 does not have.
group_onednn3() {
    wheels=$work/onednn3
    if [ ! -f "$wheels/lib/libdnnl.so" ]; then
        mkdir -p "$wheels"
        if ! "$python" -m pip download -q --no-deps -d "$wheels" onednn-cpu-gomp==2023.2.0 \
            onednn-devel-cpu-gomp==2023.2.0 >>"$log" 2>&1; then
            skip_group "oneDNN 3.x" "pip could not fetch onednn-cpu-gomp 2023.2.0"
            return
        fi
        if ! "$python" tests/repository/unpack_onednn.py "$wheels" >>"$log" 2>&1; then
            fail_group "oneDNN 3.x" "the wheels have changed"
            return
        fi
    fi
    if CFLAGS="-I$wheels/include" LDFLAGS="-L$wheels/lib -Wl,-rpath,$wheels/lib" LD_LIBRARY_PATH=$wheels/lib \
        build "$work/with-onednn3" -Dcpu=enabled -Dgpu=disabled -Dbench=false; then
        LD_LIBRARY_PATH=$wheels/lib run_group "oneDNN 3.x" --build "$work/with-onednn3" \
            --match '^conformance-|-cpu$' --check linked_with_onednn_3 \
            "readelf -d '$work'/with-onednn3/backends/cpu/mmebm-cpu-*.so | grep 'libdnnl.so.3'"
    else
        fail_group "oneDNN 3.x" "the build failed, see the log"
    fi
}

# Rules that a script can check: licences, lengths, calls a library must not make; what the documentation must hold.
group_style() {
    run_group "style and documents" --run style "$python tests/repository/check_style.py" \
        --run documents "$python tests/repository/check_docs.py"
}

groups="style ordinary abi witnesses install clang onednn3 valgrind thread_sanitizer sanitizers"

install_packages
fetch_safetensors
for tool in gcc meson ninja pkg-config "$python"; do
    have "$tool" || { fail_group "packages" "cannot build without $tool"; finish; }
done
if ! build "$work/main" --buildtype=release; then
    tail -n 30 "$log"
    fail_group "build" "the build failed, see $log"
    finish
fi
for name in ${*:-$groups}; do
    case " $groups " in
    *" $name "*) "group_$name" ;;
    *) fail_group "$name" "no such group; there are: $groups" ;;
    esac
done
finish
