"""What a record is: its fields, bounds, times, containers; its place in a chain; its formats.

Every reader and every writer of a log builds on this; nothing here opens a file.
"""
