"""Latency, memory, load time and operators of artifacts, measured side by side."""
