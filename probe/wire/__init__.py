"""Packet formats: bytes to record arrays and back. No socket, no clock, no state."""
