"""Which mounts there are, and making and ending one: the registry, connections, checks beforehand.

What any process of fusevol may know of a mount and do to it.
"""
