"""The inode-mapping layer: which node id the kernel uses for which host object.

Pure state, no system calls. Touched by the thread that runs trio only, and only between two
awaits, so nothing here is locked.
"""
