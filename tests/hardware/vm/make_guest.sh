#!/bin/bash
# Makes a Debian 13 guest with a camera that is none (vivid), libcamera's virtual pipeline, picamera2 and a TFLite
# runtime: make_guest.sh FOLDER [MIRROR]. As root, with debootstrap and e2fsprogs; FOLDER gets `guest` and `guest.img`.
set -euo pipefail
folder=$(realpath -m "$1")
guest=$folder/guest
here=$(dirname "$(realpath "$0")")
mkdir -p "$folder"
export DEBIAN_FRONTEND=noninteractive
inside() { nice -n 10 chroot "$guest" env HOME=/root PIP_CERT=/etc/ssl/certs/ca-certificates.crt "$@"; }

[ -x "$guest/bin/bash" ] ||
    nice -n 10 debootstrap --variant=minbase --include=ca-certificates trixie "$guest" "${@:2:1}"
cp -L /etc/resolv.conf "$guest/etc/resolv.conf"
# The packages come through what this machine trusts.
cp -L /etc/ssl/certs/ca-certificates.crt "$guest/etc/ssl/certs/ca-certificates.crt"
mountpoint -q "$guest/proc" || mount -t proc proc "$guest/proc"
trap 'umount "$guest/proc"' EXIT
inside apt-get update -qq
inside apt-get install -y -qq --no-install-recommends linux-image-amd64 initramfs-tools kmod v4l-utils \
    python3-opencv python3-numpy python3-pytest python3-venv python3-pip python3-dev gcc libc6-dev libcap-dev \
    python3-libcamera libcamera-ipa libcamera-tools python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0 \
    gstreamer1.0-plugins-base gstreamer1.0-plugins-good
[ -d "$guest/opt/venv" ] || inside python3 -m venv --system-site-packages /opt/venv
inside /opt/venv/bin/pip install -q picamera2 ai-edge-litert
install -D -m 644 "$here/virtual.yaml" "$guest/usr/share/libcamera/pipeline/virtual/virtual.yaml"
install -m 755 "$here/init.sh" "$guest/init.sh"
umount "$guest/proc"
trap - EXIT
nice -n 10 mke2fs -q -t ext4 -d "$guest" "$folder/guest.img" 5G
echo "Made $folder/guest.img."
