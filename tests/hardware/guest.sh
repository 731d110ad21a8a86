#!/usr/bin/env bash
# Boots a Debian 13 guest under plain emulation, has it run one job, and shows what it printed on its serial console.
# Its kernel has what a container's host lacks: vivid, i2c-stub, systemd as the first process.
#
#   sudo LAB=/path/to/scratch tests/hardware/guest.sh init|systemd JOB [FILE...]
#
# "init" runs the job in place of a system, "systemd" as a service of a whole one. FILEs land in /opt/lab beside the job.
# Exits with the job's status. Needs: apt install qemu-system-x86 debootstrap e2fsprogs. The guest is kept in LAB.
set -euo pipefail
cd "$(dirname "$0")/../.."
LAB=${LAB:?give a scratch folder: LAB=...}
PYTHON=${PYTHON:-python3}
TIMEOUT=${TIMEOUT:-900}
GUEST=${GUEST:-$LAB/guest-edgeloc}
NICE="nice -n 15"
PACKAGES="linux-image-amd64 linux-headers-amd64 linux-source kmod initramfs-tools systemd-sysv v4l-utils i2c-tools \
python3-venv python3-pip make gcc xz-utils libgl1 libglib2.0-0"

inside() { $NICE chroot "$GUEST" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }

# The modules ina2xx and ina3221 are not in Debian's amd64 kernel, but their sources are.
sensor_modules() {
    local release
    release=$(ls "$GUEST/lib/modules" | tail -n 1)
    [ -e "$GUEST/lib/modules/$release/extra/ina3221.ko" ] && return
    mkdir -p "$GUEST/usr/src/ina" "$GUEST/lib/modules/$release/extra"
    tar xf "$GUEST"/usr/src/linux-source-*.tar.xz -C "$GUEST/usr/src/ina" --wildcards --strip-components=3 \
        '*/drivers/hwmon/ina3221.c' '*/drivers/hwmon/ina2xx.c'
    echo 'obj-m := ina2xx.o ina3221.o' >"$GUEST/usr/src/ina/Makefile"
    inside make -s -C "/lib/modules/$release/build" M=/usr/src/ina modules
    cp "$GUEST"/usr/src/ina/*.ko "$GUEST/lib/modules/$release/extra/"
    inside depmod "$release"
}

make_guest() {
    [ -e "$GUEST/bin/sh" ] || $NICE debootstrap --variant=minbase --include=ca-certificates trixie "$GUEST" >"$LAB/guest.log"
    cp -L /etc/resolv.conf "$GUEST/etc/resolv.conf"
    cp -L /etc/ssl/certs/ca-certificates.crt "$GUEST/etc/ssl/certs/ca-certificates.crt"
    mountpoint -q "$GUEST/proc" || mount -t proc proc "$GUEST/proc"
    trap 'umount "$GUEST/proc"' EXIT
    # shellcheck disable=SC2086
    inside apt-get install -y -qq --no-install-recommends $PACKAGES >>"$LAB/guest.log" 2>&1
    sensor_modules >>"$LAB/guest.log" 2>&1
    rm -rf "$LAB/source" "$LAB/wheel" && mkdir -p "$LAB/source" "$GUEST/opt/lab"
    cp -r sdk device benchmarks converters setup.cfg pyproject.toml README.md LICENSE "$LAB/source"
    "$PYTHON" -m pip wheel -q --no-deps -w "$LAB/wheel" "$LAB/source"
    cp "$LAB"/wheel/*.whl "$GUEST/opt/lab/"
    [ -e "$GUEST/opt/edgeloc/bin/pip" ] || inside python3 -m venv /opt/edgeloc
    inside sh -c '/opt/edgeloc/bin/pip install -q --disable-pip-version-check smbus2 /opt/lab/*.whl &&
        /opt/edgeloc/bin/pip install -q --disable-pip-version-check --no-deps --force-reinstall /opt/lab/*.whl'
    umount "$GUEST/proc" && trap - EXIT
}

# Either way the job's output and status go to the serial console, and the guest is switched off.
write_job() { # MODE
    cat >"$GUEST/opt/lab/start.sh" <<'START'
#!/bin/bash
export PATH=/opt/edgeloc/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
if [ $$ = 1 ]; then
    export HOME=/opt
    mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmpfs /run
fi
cd /opt/lab
echo "JOB-BEGINS"; ./job 2>&1; echo "JOB-ENDS $?"
sync; echo o >/proc/sysrq-trigger; sleep 60
START
    chmod +x "$GUEST/opt/lab/start.sh" "$GUEST/opt/lab/job"
    [ "$1" = systemd ] || return 0
    cat >"$GUEST/etc/systemd/system/lab.service" <<'UNIT'
[Service]
Type=idle
ExecStart=/opt/lab/start.sh
StandardOutput=tty
TTYPath=/dev/ttyS0
UNIT
    mkdir -p "$GUEST/etc/systemd/system/multi-user.target.wants"
    ln -sf ../lab.service "$GUEST/etc/systemd/system/multi-user.target.wants/lab.service"
    ln -sf /dev/null "$GUEST/etc/systemd/system/serial-getty@ttyS0.service"
}

boot() { # INIT
    rm -f "$LAB/guest.img"
    mke2fs -q -t ext4 -d "$GUEST" "$LAB/guest.img" 5G
    timeout "$TIMEOUT" $NICE qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 2048 -nographic -no-reboot \
        -kernel "$GUEST/vmlinuz" -initrd "$GUEST/initrd.img" -net none \
        -append "console=ttyS0 root=/dev/vda rw init=$1 mitigations=off quiet loglevel=3 systemd.show_status=no" \
        -drive "file=$LAB/guest.img,if=virtio,format=raw" </dev/null | tee "$LAB/console.log" |
        stdbuf -o0 tr -d "\r" | sed -un '/JOB-BEGINS/,/JOB-ENDS/p'
}

[ "$(id -u)" = 0 ] || { echo "guest.sh: chroot and mount need root: use sudo" >&2; exit 2; }
MODE=$1 JOB=$2
shift 2
[ "${KEEP:-}" = guest ] || make_guest
mkdir -p "$GUEST/opt/lab"
cp "$JOB" "$GUEST/opt/lab/job"
for file in "$@"; do cp -r "$file" "$GUEST/opt/lab/"; done
write_job "$MODE"
case $MODE in init) boot /opt/lab/start.sh ;; systemd) boot /sbin/init ;; esac
exit "$(tr -d '\r' <"$LAB/console.log" | sed -n 's/.*JOB-ENDS \([0-9]*\).*/\1/p' | grep . || echo 124)"
