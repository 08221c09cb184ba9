"""The pyfuse3 side: requests in, replies out. The only place that imports pyfuse3.

pyfuse3 keeps its session in module globals, so a process serves one mount.
"""
