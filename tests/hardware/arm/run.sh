#!/usr/bin/env bash
# Installs the wheel in ARM userlands (Debian 12 under qemu-user) as a board's owner would, and runs what must run.
# No hardware is touched and no time is measured. The recipe and what it showed: docs/measurements/lab.md.
#
#   sudo LAB=/path/to/scratch tests/hardware/arm/run.sh [arm64] [armhf]
#
# Needs: apt install qemu-user-static binfmt-support debootstrap; a network. The userlands are kept in LAB.
set -euo pipefail
cd "$(dirname "$0")/../../.."
LAB=${LAB:?give a scratch folder: LAB=...}
PYTHON=${PYTHON:-python3}
NICE="nice -n 15"

userland() { # ARCH PACKAGES
    [ -e "$LAB/$1/usr/bin/python3" ] && return
    $NICE debootstrap --arch="$1" --variant=minbase --include="$2" bookworm "$LAB/$1" >"$LAB/debootstrap-$1.log"
}

inside() { # ARCH COMMAND...
    local arch=$1
    shift
    $NICE chroot "$LAB/$arch" env -i PATH=/opt/edgeloc/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "$@"
}

expect() { # STATUS WHAT ARCH COMMAND...
    local wanted=$1 what=$2 arch=$3 said status=0
    shift 3
    echo "--- $arch: $what"
    said=$(inside "$arch" "$@" 2>&1) || status=$?
    printf '%s\n    exit status %s\n' "$said" "$status"
    SUMMARY+="$arch: $what: exit status $status"
    [ "$status" = "$wanted" ] || { SUMMARY+=" (wanted $wanted)"; FAILED=1; }
    SUMMARY+=$'\n'
}

prepare() { # ARCH
    cp -L /etc/resolv.conf "$LAB/$1/etc/resolv.conf"
    cp -L /etc/ssl/certs/ca-certificates.crt "$LAB/$1/etc/ssl/certs/ca-certificates.crt"
    # Not /sys: it describes this machine's x86 processors, at which the runtime's look for ARM cores crashes.
    mountpoint -q "$LAB/$1/proc" || mount -t proc proc "$LAB/$1/proc"
    rm -rf "$LAB/$1/opt/wheel" "$LAB/$1/opt/edgeloc"
    cp -r "$LAB/wheel" "$LAB/$1/opt/wheel"
}

release() {
    for arch in arm64 armhf; do
        umount "$LAB/$arch/proc" 2>/dev/null || true
    done
}

# What a user runs first; the same everywhere.
jobs() { # ARCH
    local model
    expect 0 "import" "$1" python3 -c 'import edgeloc; print(edgeloc.__version__)'
    model=$(inside "$1" python3 -c 'from edgeloc.models import SHIPPED_INT8; print(SHIPPED_INT8)')
    expect 0 "edgeloc doctor" "$1" edgeloc doctor
    expect 0 "golden self-test" "$1" python3 -c \
        'from edgeloc import Localizer; from edgeloc.models import SHIPPED_INT8; print(Localizer(SHIPPED_INT8).self_test())'
    expect 0 "edgeloc run" "$1" sh -c "cd /opt && edgeloc run $model --camera 'synthetic://?seed=1&frames=20&live=0' \
        --sink boxes.jsonl && wc -l boxes.jsonl"
}

arm64() {
    userland arm64 ca-certificates,python3,python3-venv,python3-pip
    prepare arm64
    # What OpenCV's wheels need of the system; nothing else comes from apt.
    expect 0 "apt install of OpenCV's libraries" arm64 \
        sh -c 'apt-get install -y -qq --no-install-recommends libgl1 libglib2.0-0 >/dev/null'
    expect 0 "venv" arm64 python3 -m venv /opt/edgeloc
    expect 0 "pip install of the wheel" arm64 sh -c 'pip install -q --disable-pip-version-check /opt/wheel/*.whl && pip list'
    jobs arm64
}

armhf() {
    # No wheel of OpenCV exists for armv7l: it and NumPy come from apt, the runtime from pip.
    userland armhf ca-certificates,python3,python3-venv,python3-pip,python3-numpy,python3-opencv
    prepare armhf
    expect 0 "venv" armhf python3 -m venv --system-site-packages /opt/edgeloc
    expect 0 "pip install of the runtime" armhf pip install -q --disable-pip-version-check tflite-runtime==2.14.0 tflite
    expect 0 "pip install of the wheel" armhf sh -c 'pip install -q --disable-pip-version-check --no-deps /opt/wheel/*.whl'
    jobs armhf
}

[ "$(id -u)" = 0 ] || { echo "run.sh: chroot and mount need root: use sudo" >&2; exit 2; }
command -v debootstrap qemu-aarch64-static update-binfmts >/dev/null ||
    { echo "run.sh: apt install qemu-user-static binfmt-support debootstrap" >&2; exit 2; }
mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
update-binfmts --enable
trap release EXIT
FAILED=0 SUMMARY=""
rm -rf "$LAB/wheel" "$LAB/source" && mkdir -p "$LAB/source"
cp -r sdk device benchmarks converters setup.cfg pyproject.toml README.md LICENSE "$LAB/source"
"$PYTHON" -m pip wheel -q --no-deps -w "$LAB/wheel" "$LAB/source"
for arch in "${@:-arm64}"; do "$arch"; done
printf '\n%s' "$SUMMARY"
exit "$FAILED"
