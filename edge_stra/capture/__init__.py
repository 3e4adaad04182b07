"""Where pictures come from: cameras, streams, videos and folders behind one argument (`open_source`)."""

from edge_stra.capture.opening import open_source
from edge_stra.capture.options import CaptureOptions

__all__ = ["CaptureOptions", "open_source"]
