"""What Linux offers and Python's os module lacks, one concern a file. The only place with ctypes.

A wrapper raises OSError with the call's errno. It knows nothing of volumes or inodes. Beside system
calls: which container /proc says a process is in, and messages to systemd.
"""
