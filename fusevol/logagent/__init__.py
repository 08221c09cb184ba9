"""The log agent: what is done with an access log besides writing it.

A process beside the keeper and the worker of a mount, where its log is rotated by fusevol or sent
to other places. The log file is its queue: it reads what the worker has written, so nothing that it
does, or waits for, holds up an operation or the file. It ends with the channel
to its keeper, reads what is left, and goes; the next one goes on where it was.
"""
