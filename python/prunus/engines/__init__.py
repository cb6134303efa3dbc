"""Other engines: a model of ours as a file for ONNX Runtime or OpenVINO, and what reads such files."""

from prunus.engines.report import ExportReport
from prunus.engines.verb import export

__all__ = ["ExportReport", "export"]
