"""Reformulated PyTorch network -> float32 .tflite, straight through litert-torch (no TensorFlow, no ONNX)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from edge_stra.extras import install_command
from edge_stra.quiet import quiet_tools
from edge_stra.spec import MissingError


def convert(network: nn.Module, size_hw: tuple[int, int]) -> bytes:
    """A reformulated network [1, 3, H, W] -> a float32 .tflite with NHWC input [1, H, W, 3].

    Raises MissingError where litert-torch is not installed.
    """
    with quiet_tools():
        try:
            import litert_torch
        except ImportError as error:
            raise MissingError(f"the tflite target needs litert-torch; run: {install_command('export')}") from error
        nhwc = litert_torch.to_channel_last_io(network.eval(), args=[0])
        model = litert_torch.convert(nhwc, (torch.zeros(1, *size_hw, 3),))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            model.export(str(path))
            return path.read_bytes()
