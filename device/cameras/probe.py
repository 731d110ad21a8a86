"""Which V4L2 nodes are cameras, as the kernel reports them; OpenCV and NumPy are not loaded."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import stat
import struct

from edgeloc.errors import CameraError

__all__ = ["capture_devices", "probe"]

# linux/videodev2.h: _IOR('V', 0, struct v4l2_capability), 104 bytes; card at 16, capabilities at 84, device_caps at 88.
_VIDIOC_QUERYCAP = 0x80685600
_CAPTURE = 0x00000001
_CAPTURE_MPLANE = 0x00001000
_DEVICE_CAPS = 0x80000000


def probe(device: str) -> None:
    """Raise CameraError when `device` is absent, forbidden or no camera; return when it looks like one."""
    try:
        handle = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        raise _not_opened(device, error) from error
    try:
        if not stat.S_ISCHR(os.fstat(handle).st_mode):
            raise CameraError(f"camera {device} is no device; {_others(device)}")
        if not _captures(handle):
            raise CameraError(f"camera {device} is no V4L2 camera, or a node for its metadata; {_others(device)}")
    finally:
        os.close(handle)


def capture_devices() -> list[str]:
    """The device nodes here that capture video and can be opened."""
    return [device for device in sorted(glob.glob("/dev/video*")) if _is_camera(device)]


def _is_camera(device: str) -> bool:
    try:
        handle = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return _captures(handle)
    finally:
        os.close(handle)


def _captures(handle: int) -> bool:
    """Whether the driver of the open device reports that it captures video."""
    capability = bytearray(104)
    try:
        fcntl.ioctl(handle, _VIDIOC_QUERYCAP, capability)
    except OSError:
        return False
    capabilities, device_caps = struct.unpack_from("=II", capability, 84)
    return bool((device_caps if capabilities & _DEVICE_CAPS else capabilities) & (_CAPTURE | _CAPTURE_MPLANE))


def _not_opened(device: str, error: OSError) -> CameraError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return CameraError(
            f"camera {device}: permission denied",
            hint="add yourself to the group video (sudo usermod -aG video $USER) and log in again",
        )
    if error.errno == errno.EBUSY:
        return CameraError(f"camera {device} is busy: another program holds it (`fuser -v {device}` names it)")
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR):
        return CameraError(f"camera {device} is not there; {_others(device)}")
    return CameraError(f"camera {device} cannot be opened: {error.strerror}")


def _others(device: str) -> str:
    found = [other for other in capture_devices() if other != device]
    return f"cameras here: {', '.join(found)}" if found else "no V4L2 camera is connected here"
