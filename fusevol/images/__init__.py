"""Images: reading and writing OCI layouts, unpacking layers, `fusevol commit`.

An image comes from anywhere: digests are checked on the way, and layers unpacked in a root of
their own.
"""
