"""`fusevol run`: a container from its making to its end.

Synchronous code: it forks, enters namespaces and changes roots, which takes a process with one
thread. Only `volumes` knows who serves what is bound.

    monitor  from the beginning to the end
    making   writes config.json, calls the runtime, waits
    bundle   what config.json says
    oci      the runtime's command line
    hook     binds the volumes
"""
