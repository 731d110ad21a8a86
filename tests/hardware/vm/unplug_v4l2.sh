# In the guest: vivid as /dev/video0, through the contract of every camera, then unplugged in the middle of a run and
# plugged in again. See docs/measurements/lab.md.
set -e
modprobe vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=0x00
sleep 2
# By default vivid stamps a frame with its end, which it computes ahead of time; a camera stamps the start of exposure.
v4l2-ctl -d /dev/video0 -c timestamp_source=1
python3 -m pytest -q -p no:cacheprovider tests/hardware/test_cameras.py
/opt/venv/bin/python unplug_v4l2.py
