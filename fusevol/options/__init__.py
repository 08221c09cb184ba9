"""What can be asked of a mount, a volume and a log: the words, what they mean, what is refused.

Nothing here opens a file. Whether a wish can be fulfilled on this machine is for others to see
(`mounts.preflight`).

    table    the list of all options
    kinds    how values are written: sizes, times, words
"""
