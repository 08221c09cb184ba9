"""Putting a volume into a container: one that is being made, or one that runs.

Synchronous code: it forks and enters namespaces, which takes a process with one thread. It takes a
mount that others serve and knows nothing of how it is served.
"""
