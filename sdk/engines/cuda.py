"""The little of CUDA that an engine needs: memory, copies and a stream on the first GPU; it computes nothing.

Through the driver's own library, `libcuda.so.1`: it is there wherever an NVIDIA driver is, under
the same name and with the same functions on every JetPack, and needs no Python package.
https://docs.nvidia.com/cuda/cuda-driver-api/
"""

from __future__ import annotations

import ctypes
from typing import Any

from numpy.typing import NDArray

from edgeloc.errors import EngineError

__all__ = ["Cuda"]

_OUT_OF_MEMORY = 2
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NON_BLOCKING = 1
_NAME_LENGTH = 256


class Cuda:
    """The first GPU, with one stream.

    `name` is the GPU's, `capability` its compute capability such as "8.7", `stream` the handle
    that TensorRT takes. Uses the device's primary context, the one that TensorRT works in too.

    Raises EngineError when there is no driver or no GPU.
    """

    def __init__(self) -> None:
        self._library = _open_library()
        self._call("cuInit", ctypes.c_uint(0))
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        name = ctypes.create_string_buffer(_NAME_LENGTH)
        self._call("cuDeviceGetName", name, ctypes.c_int(_NAME_LENGTH), device)
        self.name = name.value.decode(errors="replace")
        self.capability = ".".join(str(self._attribute(a, device)) for a in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.make_current()
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(_NON_BLOCKING))
        self.stream = int(stream.value or 0)

    def make_current(self) -> None:
        """Bind the GPU to the calling thread; every thread that uses it must do so once."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the GPU; EngineError when its memory is full."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return int(address.value)

    def free(self, *addresses: int) -> None:
        """Give memory back."""
        for address in addresses:
            self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, values: NDArray[Any]) -> None:
        """Start copying a C-contiguous array to the GPU; it must live until `synchronize`."""
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(values.ctypes.data),
            ctypes.c_size_t(values.nbytes),
            ctypes.c_void_p(self.stream),
        )

    def download(self, values: NDArray[Any], address: int) -> None:
        """Start copying from the GPU into a C-contiguous array; it is filled after `synchronize`."""
        assert values.flags.c_contiguous
        self._call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(values.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(values.nbytes),
            ctypes.c_void_p(self.stream),
        )

    def synchronize(self) -> None:
        """Wait until everything on the stream is done."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def _attribute(self, number: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), device)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status == _OUT_OF_MEMORY:
            raise EngineError("the GPU's memory is full: end other programs that use it, or take a smaller model")
        if status:
            raise EngineError(f"the GPU failed: {function} gave {self._error_name(status)}")

    def _error_name(self, status: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorName(ctypes.c_int(status), ctypes.byref(text))
        return text.value.decode() if text.value else f"error {status}"


def _open_library() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise EngineError(
            "there is no NVIDIA driver here (libcuda.so.1): TensorRT runs on a Jetson or another NVIDIA GPU; "
            "in a container, start it with --runtime nvidia"
        ) from error
