"""Containers: root file systems, binds, running and committing.

Synchronous code: it forks, enters namespaces and changes roots, which takes a process with one
thread. It mounts volumes that others serve and knows nothing of how they are served.
"""
