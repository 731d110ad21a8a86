#!/usr/bin/env bash
# Boots the arm64 userland of run.sh with an arm64 kernel on an emulated machine that says it is a Raspberry Pi 4, and
# has `edgeloc doctor` name the board. The device tree's model and compatible are the Pi's, the rest is QEMU's own.
#
#   sudo LAB=/path/to/scratch tests/hardware/arm/pi.sh
#
# Needs: run.sh arm64 before; apt install qemu-system-arm device-tree-compiler cpio.
set -euo pipefail
LAB=${LAB:?give a scratch folder: LAB=...}
TIMEOUT=${TIMEOUT:-1200}
NICE="nice -n 15"
ROOT=$LAB/arm64
MACHINE=(-M virt -cpu cortex-a72 -smp 2 -m 4096)

# Unpacked and not installed: under emulation, making an initial RAM disk takes 19 minutes, and none is needed.
kernel() {
    ls "$LAB"/kernel/boot/vmlinuz-* 2>/dev/null && return
    local package
    package=$(chroot "$ROOT" apt-cache depends linux-image-arm64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    (cd "$ROOT/var/cache" && chroot "$ROOT" sh -c "cd /var/cache && apt-get download -qq $package") >&2
    dpkg-deb -x "$ROOT"/var/cache/linux-image-*.deb "$LAB/kernel"
    rm "$ROOT"/var/cache/linux-image-*.deb
    ls "$LAB"/kernel/boot/vmlinuz-*
}

tree() {
    qemu-system-aarch64 "${MACHINE[@]}" -M dumpdtb="$LAB/virt.dtb" >/dev/null 2>&1
    fdtput -t s "$LAB/virt.dtb" / model "Raspberry Pi 4 Model B Rev 1.4"
    fdtput -t s "$LAB/virt.dtb" / compatible "raspberrypi,4-model-b" "brcm,bcm2711" "linux,dummy-virt"
}

# The userland as it is is the RAM disk: no driver of a disk is needed.
disk() {
    cat >"$ROOT/init" <<'INIT'
#!/bin/sh
export PATH=/opt/edgeloc/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/opt LANG=C.UTF-8
mkdir -p /proc /var/cache; mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmpfs /run
cd /opt
model=$(python3 -c 'from edgeloc.models import SHIPPED_INT8; print(SHIPPED_INT8)')
echo JOB-BEGINS
uname -srm; tr '\0' '\n' </proc/device-tree/model; echo
edgeloc doctor; doctor=$?
edgeloc doctor --json | grep -E '"(name|family|model|revision|cpu)"' | head -n 5
edgeloc run "$model" --camera 'synthetic://?seed=1&frames=20&live=0' --sink boxes.jsonl; run=$?
edgeloc doctor | grep -q 'Raspberry Pi 4 Model B'; named=$?
echo "exit status of doctor $doctor, of run $run; the board was named: $([ $named = 0 ] && echo yes || echo no)"
echo "JOB-ENDS $((doctor + run + named))"
echo o >/proc/sysrq-trigger; sleep 60
INIT
    chmod +x "$ROOT/init"
    mountpoint -q "$ROOT/proc" && umount "$ROOT/proc"
    (cd "$ROOT" && find . -path ./proc -prune -o -path ./var/cache -prune -o -path ./usr/share/doc -prune -o -print0 |
        $NICE cpio --null --create --format=newc --quiet) >"$LAB/arm64.cpio"
}

[ "$(id -u)" = 0 ] || { echo "pi.sh: chroot needs root: use sudo" >&2; exit 2; }
image=$(kernel | head -n 1)
tree
disk
timeout "$TIMEOUT" $NICE qemu-system-aarch64 "${MACHINE[@]}" -nographic -no-reboot -net none -dtb "$LAB/virt.dtb" \
    -kernel "$image" -initrd "$LAB/arm64.cpio" -append "console=ttyAMA0 quiet loglevel=3 panic=-1" </dev/null |
    tee "$LAB/pi-console.log" | stdbuf -o0 tr -d '\r' | sed -un '/JOB-BEGINS/,/JOB-ENDS/p'
exit "$(tr -d '\r' <"$LAB/pi-console.log" | sed -n 's/.*JOB-ENDS \([0-9]*\).*/\1/p' | grep . || echo 124)"
