"""FUSE's own messages as the kernel writes them: INIT, and requests that it sends again.

Bytes and the device, no pyfuse3: the keeper needs them, too.
"""
