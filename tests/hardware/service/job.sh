#!/bin/bash
# In the guest of guest.sh, under systemd: installs the service on a camera, and watches it start, hang, fail, give up, go.
model=$(python3 -c 'from edgeloc.models import SHIPPED_INT8; print(SHIPPED_INT8)')
failed=0

check() { # WHAT WANTED GOT
    if [ "$2" = "$3" ]; then echo "ok   $1: $3"; else echo "FAIL $1: $3, wanted $2"; failed=1; fi
}

property() { systemctl show edgeloc.service --property "$1" --value; }

wait_for() { # SECONDS PROPERTY VALUE
    for _ in $(seq "$1"); do [ "$(property "$2")" = "$3" ] && return; sleep 1; done
}

status_of() { "$@" >/run/said 2>&1; echo $?; }

modprobe vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=0x00
udevadm settle 2>/dev/null || sleep 2
ls -l /dev/video0
systemctl --version | head -n 1

# As on a Pi: the virtual environment and the model lie in a home folder that nobody else may enter.
useradd --create-home pi && home=$(getent passwd pi | cut -d: -f6)
cp -a /opt/edgeloc "$home/venv" && cp "$model" "$home/model.tflite" && chown -R pi: "$home" && chmod 700 "$home"
edgeloc="$home/venv/bin/python -m edgeloc"
arguments="$home/model.tflite --camera v4l2:///dev/video0?size=640x360&fps=30 --sink boxes.jsonl"

check "without root" 2 "$(status_of runuser -u pi -- $edgeloc install-service $arguments)"; cat /run/said
check "another's name" 2 "$(status_of $edgeloc install-service $arguments --name systemd-journald)"; cat /run/said
check "install" 0 "$(status_of $edgeloc install-service $arguments)"; cat /run/said
systemctl status edgeloc.service --no-pager | head -n 12
journalctl -u edgeloc --no-pager -n 30
check "state once install returns" active "$(property ActiveState)"
check "status text" Localizing "$(property StatusText)"
check "starts with the board" enabled "$(systemctl is-enabled edgeloc.service)"
first=$(property MainPID)
echo "     its user: $(ps -o user= -p "$first" 2>/dev/null || stat -c %u /proc/"$first")"
check "its user is not root" 0 "$([ "$(stat -c %u "/proc/$first")" != 0 ]; echo $?)"
for line in "NoNewPrivs 1" "CapEff 0000000000000000" "CapBnd 0000000000000000" "Seccomp 2"; do
    check "${line% *}" "${line#* }" "$(sed -n "s/^${line% *}:\s*//p" "/proc/$first/status")"
done
sleep 75
check "still the same process, longer than the watchdog" "$first" "$(property MainPID)"
ls -la /var/lib/edgeloc/

echo "--- the process is frozen: no progress"
kill -STOP "$first"
wait_for 90 NRestarts 1
check "restarts" 1 "$(property NRestarts)"
wait_for 90 ActiveState active
check "state" active "$(property ActiveState)"
check "another process" 0 "$([ "$(property MainPID)" != "$first" ]; echo $?)"
journalctl -u edgeloc --no-pager | grep -ci "watchdog timeout" | sed 's/^/     lines of the journal on the watchdog: /'

check "where it hung is in the journal" 0 "$(journalctl -u edgeloc --no-pager | grep -q "Fatal Python error: Aborted"; echo $?)"
journalctl -u edgeloc --no-pager -o cat | grep -A 6 "Fatal Python error"

echo "--- a stop is no failure"
systemctl stop edgeloc.service
check "state" inactive "$(property ActiveState)"
check "result" success "$(property Result)"
wc -l /var/lib/edgeloc/boxes.jsonl

echo "--- a camera that goes away for 10 s and comes back is the run's own affair; a second service, beside the first"
check "install" 0 "$(status_of $edgeloc install-service $home/model.tflite --name second \
    --camera 'fake://?seed=1&fps=10&frames=100000&disconnect=100:10' --sink boxes.jsonl)"; cat /run/said
second=$(systemctl show second --property MainPID --value)
sleep 40
check "the same process" "$second" "$(systemctl show second --property MainPID --value)"
systemctl stop second; journalctl -u second --no-pager -o cat | grep "results in"
check "uninstall" 0 "$(status_of $edgeloc install-service --uninstall --name second)"

echo "--- the camera is gone for good; the limit lowered to 3 starts"
modprobe -r vivid
mkdir -p /etc/systemd/system/edgeloc.service.d
printf '[Unit]\nStartLimitBurst=3\n[Service]\nRestartSec=1\n' >/etc/systemd/system/edgeloc.service.d/quick.conf
systemctl daemon-reload; systemctl reset-failed edgeloc.service
systemctl start edgeloc.service; echo "     systemctl start: $?"
wait_for 120 ActiveState failed; sleep 15
check "state" failed "$(property ActiveState)"
check "restarts" 3 "$(property NRestarts)"
journalctl -u edgeloc --no-pager -n 14

echo "--- bad input is not tried again"
check "install" 3 "$(status_of $edgeloc install-service $home/model.tflite --camera v4l2:///dev/video0?nonsense=1)"; cat /run/said
sleep 8
check "restarts" 0 "$(property NRestarts)"

check "uninstall" 0 "$(status_of $edgeloc install-service --uninstall)"; cat /run/said
check "uninstall again" 2 "$(status_of $edgeloc install-service --uninstall)"; cat /run/said
check "the unit" not-found "$(property LoadState)"
exit $failed
