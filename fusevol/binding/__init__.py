"""Putting a volume into a container: one that is being made, or one that runs.

Synchronous code: it forks and enters namespaces, which takes a process with one thread. It takes a
mount that others serve and knows nothing of how it is served.

    bind      the bind itself: moving a copy of a mount into a root file system
    creating  into a container that a runtime is making (hook)
    attach    into a container that runs
"""
