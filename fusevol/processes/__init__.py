"""The processes of one mount: keeper, worker, log agent; how they start, end and take over.

The keeper mounts, watches the worker and cleans up. It never touches a file of the volume and
nothing below the mount point, so that it cannot wait for its own file system.
"""
