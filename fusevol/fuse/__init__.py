"""The pyfuse3 side: requests in, replies out. The only place that imports pyfuse3.

pyfuse3 keeps its session in module globals, so a process serves one mount.

On the way of a request, in order:

    session      opens source and log, serves until the mount ends
    requestloop  waits for the next request
    operations   the table: which handler answers which FUSE operation
    middleware   around each handler: time, errno, record, journal
    executor     runs the handler: in place, one at a time, or with a deadline
    node_*       handlers by node; open_*  handlers by handle
"""
