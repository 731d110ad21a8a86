# In the guest: picamera:// on libcamera's virtual pipeline. See docs/measurements/lab.md.
set -e
modprobe -a udmabuf dmabuf_heaps 2>/dev/null || true
/opt/venv/bin/python virtual_picamera.py
