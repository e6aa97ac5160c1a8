"""The measuring logic: arrays and times in, values and events out. No socket, no clock, no thread."""
