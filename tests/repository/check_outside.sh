#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# check_outside.sh BUILD_FOLDER: what the documents promise to somebody outside the tree. The library is installed into
# a folder of its own; every example builds alone against it, with meson and with make, and README.md's program
# compiles without a warning and runs.
source=$(cd "$(dirname "$0")/../.." && pwd)
build=$1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
log=$work/log.txt
failures=0

report() { # NAME STATUS
    if [ "$2" = 0 ]; then
        echo "PASS $1"
    else
        tail -n 20 "$log" | sed 's/^/  /'
        echo "FAIL $1"
        failures=1
    fi
}

DESTDIR=$work/stage meson install -C "$build" >"$log" 2>&1 || { report installed_copy 1; exit 1; }
# The staged copy was made for another place: tell pkg-config and the loader where it lies.
pc=$(find "$work/stage" -name mmebm.pc)
sed -i "s|^prefix=|prefix=$work/stage|" "$pc"
PKG_CONFIG_PATH=$(dirname "$pc")
LD_LIBRARY_PATH=$(dirname "$PKG_CONFIG_PATH")
export PKG_CONFIG_PATH LD_LIBRARY_PATH
module=$(find "$work/stage" -name 'mmebm-cpu-*.so')
[ -z "$module" ] || export MMEBM_BACKEND_DIR="$(dirname "$module")"

missing_packages() { # FOLDER: of those in its Makefile's line "PACKAGES = ..."
    for package in $(sed -n 's/^PACKAGES = //p' "$1/Makefile"); do
        pkg-config --exists "$package" || printf ' %s' "$package"
    done
}

for folder in "$source"/examples/*/; do
    [ -f "$folder/meson.build" ] || continue
    name=$(basename "$folder")
    missing=$(missing_packages "$folder")
    if [ -n "$missing" ]; then
        echo "SKIP example_$name: not installed:$missing"
        continue
    fi
    cp -r "$folder" "$work/$name"
    { meson setup "$work/$name/build" "$work/$name" -Dwerror=true && ninja -C "$work/$name/build"; } >"$log" 2>&1
    report "example_${name}_with_meson" $?
    make -C "$work/$name" CFLAGS='-O2 -Wall -Wextra -pedantic -Werror' >"$log" 2>&1
    report "example_${name}_with_make" $?
done

awk '/^```c$/ { inside = 1; next } /^```/ { inside = 0 } inside' "$source/README.md" >"$work/readme.c"
gcc -std=c11 -O1 -Wall -Wextra -pedantic -Werror -o "$work/readme" "$work/readme.c" \
    $(pkg-config --cflags --libs mmebm) -lm >"$log" 2>&1
report readme_program_compiles $?
"$work/readme" >"$log" 2>&1
report readme_program_runs $?
exit $failures
