#!/bin/bash
# What the guest runs instead of an init: the job in the shared folder, then off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
modprobe -a 9pnet_virtio 9p
mkdir -p /shared && mount -t 9p -o trans=virtio,version=9p2000.L shared /shared
cd /shared
PYTHONPATH=/shared/packages PYTHONDONTWRITEBYTECODE=1 timeout 300 bash job.sh >out.log 2>&1
echo $? >status
sync
cd /
umount /shared
echo o >/proc/sysrq-trigger
sleep 30
