"""Which mounts there are, and making and ending one: the registry, connections, checks beforehand.

What any process of fusevol may know of a mount and do to it.

    configure  from a command line to the configuration of a mount
    preflight  checks before the mount
    mounting   the mount itself
    registry   which mounts exist
"""
