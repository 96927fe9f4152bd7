"""OpenVINO IR (intermediate representation): a folder for OpenVINO."""

from slmquant.formats.openvino.writer import FORMAT as FORMAT
