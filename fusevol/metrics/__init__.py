"""What is counted of all volumes, for Prometheus and by OTLP.

Read from recovery states, the registry and /proc: no keeper and no worker is asked.
"""
