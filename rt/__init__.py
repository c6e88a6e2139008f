"""rt: a real-time server. Backends publish; browsers, phones and services receive."""

__version__ = "0.1.0"
