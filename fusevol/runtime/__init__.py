"""`fusevol run`: a container from its making to its end.

Synchronous code: it forks, enters namespaces and changes roots, which takes a process with one
thread. Only `volumes` knows who serves what is bound.
"""
