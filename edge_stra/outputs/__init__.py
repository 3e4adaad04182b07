"""What shows or keeps scenes: a recording, a log, MQTT events, a window. Each is a `edge_stra.live.scene.Output`."""
