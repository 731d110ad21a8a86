#!/bin/bash
# Runs a job in the guest that make_guest.sh made: run_in_guest.sh FOLDER JOB.sh RESULTS [FILE...]. The job finds the
# package on its path, the tests and each FILE beside it, and what it writes there is in RESULTS afterwards.
set -euo pipefail
folder=$(realpath "$1")
job=$2
results=$(realpath -m "$3")
here=$(dirname "$(realpath "$0")")
repository=$(realpath "$here/../../..")
rm -rf "$results"
mkdir -p "$results/packages/edgeloc"
cp -r "$repository"/sdk/. "$results/packages/edgeloc/"
for part in device benchmarks converters; do cp -r "$repository/$part" "$results/packages/edgeloc/$part"; done
cp -r "$repository/tests" "$repository/pyproject.toml" "$results/"
cp "$job" "$results/job.sh"
cp "${@:4}" "$results/" 2>/dev/null || [ $# -eq 3 ]
kernel=$(ls "$folder"/guest/boot/vmlinuz-* | tail -1)
timeout 420 nice -n 10 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 2048 -nographic \
    -no-reboot -kernel "$kernel" -initrd "${kernel/vmlinuz/initrd.img}" -snapshot \
    -append "console=ttyS0 root=/dev/vda rw init=/init.sh mitigations=off quiet" -net none \
    -drive file="$folder/guest.img",if=virtio,format=raw \
    -virtfs local,path="$results",mount_tag=shared,security_model=none >"$results/console.log" 2>&1 </dev/null
cat "$results/out.log"
exit "$(cat "$results/status")"
