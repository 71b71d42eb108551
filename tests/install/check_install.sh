#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
#     sh tests/install/check_install.sh [BUILD_FOLDER]
#
# Installs the library into a fresh prefix, looks at what is there, and builds and runs a C and a C++ program outside
# the tree that know it by pkg-config alone, against the shared and the static library. With BUILD_FOLDER, the install
# is tried from that folder with DESTDIR too.
set -u
source=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix
failures=0
unset MMEBM_BACKEND_DIR LD_LIBRARY_PATH PKG_CONFIG_PATH DESTDIR

pass() { echo "PASS $1"; }
fail() { # NAME WHY
    echo "  $2"
    echo "FAIL $1"
    failures=1
}

log=$work/log.txt
if meson setup "$work/build" "$source" --prefix="$prefix" --buildtype=release -Dtests=false -Dbench=false \
    >"$log" 2>&1 && meson install -C "$work/build" >>"$log" 2>&1; then
    pass install
else
    tail -n 20 "$log"
    fail install "meson setup or install failed"
    exit 1
fi

# ---- what is installed
pc=$(find "$prefix" -name mmebm.pc)
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH
libdir=$(pkg-config --variable=libdir mmebm)
version=$(pkg-config --modversion mmebm)
major=${version%%.*}
lib=${libdir#"$prefix"/}
expected="include/mmebm.h $lib/libmmebm.a $lib/libmmebm.so $lib/libmmebm.so.$major $lib/libmmebm.so.$version
$lib/pkgconfig/mmebm.pc"
backends=$(cd "$work/build" && find backends -name 'mmebm-*-*.so' | sed 's|.*/||')
for module in $backends; do expected="$expected $lib/mmebm/$module"; done
wanted=$(printf '%s\n' $expected | sort)
found=$(cd "$prefix" && find . ! -type d | sed 's|^\./||' | sort)
if [ "$found" = "$wanted" ]; then
    pass installed_files
else
    fail installed_files "found: $(echo $found); wanted: $(echo $wanted)"
fi

if grep -q "$source\|$work/build" "$pc" || ! pkg-config --validate mmebm; then
    fail pkg_config_file "names a folder of the build, or is not valid: $(cat "$pc")"
else
    pass pkg_config_file
fi

needed=$(readelf -d "$libdir/libmmebm.so" | sed -n 's/.*(NEEDED).*\[\(.*\)\].*/\1/p' | tr '\n' ' ')
strangers=$(printf '%s\n' $needed | grep -vE '^(libc|libm|libdl|libz|libpthread|ld-linux[-a-z0-9_]*)\.so')
if [ -z "$strangers" ]; then pass few_dependencies; else fail few_dependencies "libmmebm.so needs $needed"; fi

# ---- programs outside the tree
auto=reference
case " $(echo $backends) " in *" mmebm-cpu-"*) auto=cpu ;; esac

run_program() { # NAME PROGRAM: in a folder of its own, with nothing but the loader's path set
    mkdir -p "$work/elsewhere"
    if output=$(cd "$work/elsewhere" &&
        env -i HOME=/ LD_LIBRARY_PATH="$libdir" "$2" model.safetensors auto reference 2>&1) &&
        echo "$output" | grep -q "^asked for auto, got $auto:" &&
        echo "$output" | grep -q "^asked for reference, got reference:"; then
        pass "$1"
    else
        fail "$1" "wanted auto to be $auto; $output"
    fi
}

build_program() { # NAME COMPILER STANDARD FILE LINK_OPTIONS
    if ! command -v "$2" >/dev/null; then
        echo "SKIP $1: $2 is not installed"
        return
    fi
    cp "$source/tests/install/$4" "$work/"
    if (cd "$work" && "$2" "-std=$3" -Wall -Wextra -pedantic -Werror -o "$1" "$4" $(pkg-config --cflags mmebm) $5) \
        >"$log" 2>&1; then
        run_program "$1" "$work/$1"
    else
        fail "$1" "does not build: $(cat "$log")"
    fi
}

shared=$(pkg-config --libs mmebm)
mkdir "$work/archive" && cp "$libdir/libmmebm.a" "$work/archive/"
static="-L$work/archive $(pkg-config --static --libs mmebm)"
build_program c_program gcc c11 program.c "$shared"
build_program cxx_program g++ c++11 program.cpp "$shared"
build_program c_program_static gcc c11 program.c "$static"
build_program cxx_program_static g++ c++11 program.cpp "$static"
if [ -x "$work/c_program_static" ] && readelf -d "$work/c_program_static" | grep -q 'NEEDED.*mmebm'; then
    fail static_means_static "c_program_static needs libmmebm.so"
else
    pass static_means_static
fi

# ---- a staged install, as packages are made
if [ $# -gt 0 ]; then
    if DESTDIR=$work/stage meson install --no-rebuild -C "$1" >"$log" 2>&1 &&
        [ -n "$(find "$work/stage" -name mmebm.h)" ] && [ -n "$(find "$work/stage" -name libmmebm.so)" ]; then
        pass staged_install
    else
        fail staged_install "$(tail -n 5 "$log")"
    fi
fi
exit $failures
