"""What an operation means on a volume. Knows nothing of FUSE.

One function per system call, in the module of its topic. Errors leave as OSError with the host's
errno. Names are bytes and single components; objects are addressed by descriptors, never by paths,
so that neither a renamed ancestor nor a symbolic link put in at the right moment leads outside
the source. All functions run on one thread, except where they say so.
"""
