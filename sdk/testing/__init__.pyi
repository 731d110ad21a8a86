"""The fakes and the contract suites; nothing else of this package is promised to stay."""

from edgeloc.testing.cameras import FakeCamera as FakeCamera
from edgeloc.testing.cameras import FakePicamera2 as FakePicamera2
from edgeloc.testing.cameras import SyntheticCamera as SyntheticCamera
from edgeloc.testing.compiler import build_fake_compiler as build_fake_compiler
from edgeloc.testing.engines import FakeEngine as FakeEngine
from edgeloc.testing.engines import build_fake_delegate as build_fake_delegate
from edgeloc.testing.mavlink import FakeAutopilot as FakeAutopilot
from edgeloc.testing.mavlink import Sight as Sight
from edgeloc.testing.power import FakeI2cBus as FakeI2cBus
from edgeloc.testing.power import FakeMeter as FakeMeter
from edgeloc.testing.power import write_tree as write_tree
from edgeloc.testing.suites import CameraSuite as CameraSuite
from edgeloc.testing.suites import EngineSuite as EngineSuite
from edgeloc.testing.suites import FileSinkSuite as FileSinkSuite
from edgeloc.testing.suites import MeterSuite as MeterSuite
from edgeloc.testing.suites import SinkSuite as SinkSuite
from edgeloc.testing.suites import example_frame as example_frame
from edgeloc.testing.suites import example_observation as example_observation
from edgeloc.testing.tensorrt import FakeCudaDriver as FakeCudaDriver
from edgeloc.testing.tensorrt import FakeTensorRt as FakeTensorRt
from edgeloc.testing.tensorrt import fake_onnx as fake_onnx
from edgeloc.testing.tensorrt import fake_tensorrt as fake_tensorrt
