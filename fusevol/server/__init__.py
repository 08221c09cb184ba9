"""`fusevol serve`: volumes by name, mounted while they are used; how commands and engines ask it.

It owns what is stored of volumes and references, and the sockets. What serves a mount are other
processes (`processes`); the server's death ends none.
"""
