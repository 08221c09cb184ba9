"""Processes: the daemon that owns a mount, the worker that serves it, and what they leave on disk.

The daemon mounts, watches the worker and cleans up. It never touches a file of the volume and
nothing below the mount point, so that it cannot wait for its own file system.
"""
