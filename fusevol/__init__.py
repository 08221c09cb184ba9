"""fusevol: host directories as container volumes, every operation on them in an access log."""

__version__ = "0.1.0"
