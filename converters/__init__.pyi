"""The public names; nothing else of this package is promised to stay."""

from edgeloc.converters.conversion import Conversion as Conversion
from edgeloc.converters.conversion import ConvertOptions as ConvertOptions
from edgeloc.converters.conversion import convert as convert
from edgeloc.converters.gate import GateLimits as GateLimits
from edgeloc.converters.gate import GateRefused as GateRefused
from edgeloc.converters.quantization.quantize import RECIPES as RECIPES
from edgeloc.converters.quantization.quantize import Recipe as Recipe
from edgeloc.converters.sources import Source as Source
from edgeloc.converters.targets.edgetpu import Compilation as Compilation
from edgeloc.converters.targets.edgetpu import compile_edgetpu as compile_edgetpu
from edgeloc.converters.targets.edgetpu.prediction import MappingPrediction as MappingPrediction
from edgeloc.converters.targets.edgetpu.prediction import predict_mapping as predict_mapping
from edgeloc.converters.training import Training as Training
from edgeloc.converters.training import TrainOptions as TrainOptions
from edgeloc.converters.training import train as train
