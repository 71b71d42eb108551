#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The whole of libmmebm on real data, from a Debian 12 with nothing installed, on two cores:
#
#     sh examples/demo.sh             trained weights from examples/data: building and results in about a minute
#     sh examples/demo.sh --train     trains first, on PolyMNIST from examples/data: under ten minutes in all
#
# Installs the Debian packages that are missing (as root or through sudo), builds and installs the library into
# build-demo/, builds examples/polymnist against it as any program would be, and runs that: it writes pictures and a
# table of measures to demo-out/, and a training its model too. Ctrl-C stops a training with a checkpoint; the same
# command goes on from there. Further words are options of the program, such as --train --seconds 120; --help lists
# them. The backend for GPUs takes minutes to build and is built only for "--backend cuda".
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)
work=$root/build-demo
installed=$work/installed
log=$work/log.txt
mkdir -p "$work"

packages="gcc libc6-dev meson ninja-build pkg-config libdnnl-dev libjsmn-dev zlib1g-dev libjpeg-dev libpng-dev"

stage() { printf '\n== %s\n' "$*"; }

fail() {
    printf 'demo.sh: %s\n' "$*" >&2
    exit 1
}

# quietly WHAT COMMAND...: output goes to the log, its end to the screen if the command fails
quietly() {
    what=$1
    shift
    printf -- '---- %s\n' "$what" >>"$log"
    if ! "$@" >>"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "$what failed; all of its output is in $log"
    fi
}

missing() {
    for package in $packages; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || printf ' %s' "$package"
    done
}

install_packages() {
    if ! command -v dpkg-query >/dev/null; then
        echo "This is not a Debian; the equivalents of these packages must be there: $packages"
        return
    fi
    wanted=$(missing)
    if [ -z "$wanted" ]; then
        echo "All Debian packages are there: $packages"
        return
    fi
    echo "Installing these Debian packages:$wanted"
    as_root=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null ||
            fail "neither root nor sudo here; as root run: apt-get install$wanted"
        as_root=sudo
    fi
    quietly "apt-get update" $as_root apt-get update
    quietly "apt-get install" $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends $wanted
}

# configure FOLDER SOURCE OPTIONS...: once; ninja itself notices later changes
configure() {
    folder=$1
    shift
    [ -f "$folder/build.ninja" ] || quietly "meson setup $folder" meson setup "$folder" "$@"
}

[ "${1-}" != --help ] || [ ! -x "$work/example/polymnist" ] || exec "$work/example/polymnist" --help
: >"$log"
stage "1 of 4: packages"
install_packages

stage "2 of 4: building libmmebm into build-demo/installed"
case " $* " in
*" cuda "*) gpu=enabled ;;
*) gpu=disabled ;;
esac
library=$work/library-gpu-$gpu
configure "$library" "$root" --buildtype=release --prefix="$installed" --libdir=lib \
    -Dtests=false -Dbench=false -Dcpu=enabled -Dgpu=$gpu
quietly "building the library" ninja -C "$library"
quietly "installing the library" ninja -C "$library" install

stage "3 of 4: building examples/polymnist against the installed library"
export PKG_CONFIG_PATH="$installed/lib/pkgconfig"
configure "$work/example" examples/polymnist
quietly "building the example" ninja -C "$work/example"

stage "4 of 4: pictures and numbers; into demo-out/ unless --out says otherwise"
export LD_LIBRARY_PATH="$installed/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
exec "$work/example/polymnist" "$@"
