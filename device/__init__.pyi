"""The public names; nothing else of this package is promised to stay."""

from edgeloc.device.board import Accelerator as Accelerator
from edgeloc.device.board import Board as Board
from edgeloc.device.board import read_board as read_board
from edgeloc.device.cpu import Cluster as Cluster
from edgeloc.device.cpu import use_cores as use_cores
from edgeloc.device.doctor import DoctorReport as DoctorReport
from edgeloc.device.doctor import examine as examine
from edgeloc.device.power import EnergyEstimate as EnergyEstimate
from edgeloc.device.power import PowerMeter as PowerMeter
from edgeloc.device.power import PowerSample as PowerSample
from edgeloc.device.power import PowerSampler as PowerSampler
from edgeloc.device.power import PowerTrace as PowerTrace
from edgeloc.device.power import open_meter as open_meter
from edgeloc.device.power.ina import InaMeter as InaMeter
from edgeloc.device.power.recording import read_recording as read_recording
from edgeloc.device.thermal import ClusterClock as ClusterClock
from edgeloc.device.thermal import ThermalReader as ThermalReader
from edgeloc.device.thermal import ThermalRecord as ThermalRecord
from edgeloc.device.thermal import ThermalSampler as ThermalSampler
from edgeloc.device.thermal import ThermalSnapshot as ThermalSnapshot
from edgeloc.findings import Finding as Finding
from edgeloc.model.sandbox import SelfTest as SelfTest
